r"""Objectives: the cost of a number format under a change of basis, from statistics alone.

All are functions of the logarithms u of the free values; r = row, c = column, l = layer, t = exp(u).

*Balance* (`range`, `l2`, `smoothquant`). Sum of squared deviations of log ranges from their tensor's mean:

    sum_l [ (1 - alpha) (sum_r (R_r - mean R)^2 + sum_c (C_c - mean C)^2) + alpha sum_c (X_c - mean X)^2 ]

R, C: logarithms of the largest elements (or Euclidean norms) of rows and columns, X: of the calibrated maxima of input
channels. For two layers without data each channel's minimum is t = sqrt(C / R): cross-layer equalisation (Nagel et
al., "Data-free quantization through weight equalization and bias correction", eq. 11). Without rows it is
t = C^(1 - alpha) / X^alpha: SmoothQuant (Xiao et al., eq. 4).

*Noise* (`noise`). Rounding to steps of size d adds noise of variance d^2 / 12 to each element. At the outputs of layer
l, relative to the signal power of the layers that read them, that is

    N_l = d_l^2 / 12 * sum_c a_c t_c^2 * sum_r b_r / t_r^2        (weights; d_l is the format's step: max|W'| / levels)
        + e_l^2 / 12 * sum_c k_c / t_c^2                          (inputs; e_l: max t_c x_c / levels)

with a the mean squares of the input channels, x their largest magnitudes (twice those where a layer's inputs take both
signs: a bound of their range that holds on other data, too), b the cost of squared noise at an output (the squared
columns of the layers that read it, over the power of their outputs), k = sum_r b_r w_rc^2.
The objective is the mean of log N_l: it is convex in u (maxima and log-sum-exps of linear functions), so any start
leads to the minimum. It ignores how much each layer's noise matters at the outputs, which `output_error.py` measures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fxteleport.ranges.segments import segment_logsumexp, segment_max, segment_sum
from fxteleport.ranges.statistics import Statistics

_TINY = 1e-300


@dataclass(frozen=True)
class Format:
    """The integer format to which numbers are rounded.

    Attributes:
        bits: of the weights, with a symmetric range.
        per_channel: a scale for each output channel; else one for each tensor.
        activation_bits: of the layers' inputs, with one scale for each tensor; None: they are not rounded.
    """

    bits: int = 8
    per_channel: bool = False
    activation_bits: int | None = None


def noise(stats: Statistics, logs: Tensor, form: Format) -> Tensor:
    """The logarithm of the noise-to-signal ratio, the mean over the layers; differentiable."""
    rows, columns, peaks = stats.rows.of(logs), stats.columns.of(logs), stats.peaks_at(logs)
    cost = stats.use.log() - 2 * rows
    if form.per_channel:
        own = segment_max(peaks, stats.peak_row, stats.rows.count)
        cost = torch.where(own.isfinite(), cost + 2 * own, -math.inf)
    gain = 2 * columns + stats.signal_in.clamp_min(_TINY).log()
    blocks = len(stats.block_layer)
    each = segment_logsumexp(gain, stats.column_block, blocks) + segment_logsumexp(cost, stats.row_block, blocks)
    total = segment_logsumexp(each, stats.block_layer, stats.layers) + stats.positions.log() + _step(form.bits - 1)
    if not form.per_channel:
        total = total + 2 * segment_max(peaks, stats.row_layer[stats.peak_row], stats.layers)
    if form.activation_bits is not None and stats.largest_in is not None:
        total = torch.logaddexp(total, _of_inputs(stats, rows, columns, form.activation_bits))
    alive = total.isfinite()
    return torch.where(alive, total, 0.0).sum() / max(1, int(alive.sum()))


def _of_inputs(stats: Statistics, rows: Tensor, columns: Tensor, bits: int) -> Tensor:
    """The noise of rounding the inputs, by layer."""
    assert stats.largest_in is not None
    peak = segment_max(columns + stats.largest_in.clamp_min(_TINY).log(), stats.column_layer, stats.layers)
    cost = (stats.column_cost.clamp_min(_TINY)).log() - 2 * columns
    width = peak + torch.where(stats.signed_in, math.log(2.0), 0.0)
    return 2 * width + segment_logsumexp(cost, stats.column_layer, stats.layers) + _step(bits)


def _step(bits: int) -> float:
    """The logarithm of the noise variance of rounding a range of 1 to `bits` bits."""
    return -2 * math.log(2**bits - 1) - math.log(12)


@dataclass(frozen=True)
class Weighing:
    """The weights of the ranges of rows, columns and inputs in a balance."""

    rows: float = 1.0
    columns: float = 1.0
    inputs: float = 0.0


@dataclass(frozen=True, eq=False)
class Ranges:
    """The logarithms of the ranges of all rows, columns and input channels; -inf for those that count as zero."""

    rows: Tensor
    columns: Tensor
    inputs: Tensor | None


def ranges(stats: Statistics, logs: Tensor, norm: str = "max") -> Ranges:
    """The ranges after a change of basis: the largest elements.

    With norm "l2", the Euclidean norms: exact at the basis at which the weights were read, and approximate elsewhere
    (each changes by its own CoB alone).
    """
    if norm == "l2":
        rows, columns = stats.row_norm + stats.rows.of(logs), stats.column_norm - stats.columns.of(logs)
    else:
        peaks = stats.peaks_at(logs)
        rows = segment_max(peaks, stats.peak_row, stats.rows.count)
        columns = segment_max(peaks, stats.peak_column, stats.columns.count)
    rows = torch.where(stats.row_alive, rows, -math.inf)
    columns = torch.where(stats.column_alive, columns, -math.inf)
    inputs = None if stats.largest_in is None else stats.largest_in.log() + stats.columns.of(logs)
    return Ranges(rows, columns, inputs)


def deviation(values: Tensor, layer: Tensor, layers: int) -> Tensor:
    """The difference of each value from the mean of its layer; 0 where it is -inf, which does not count."""
    there = values.isfinite()
    plain = torch.where(there, values, 0.0)
    count = segment_sum(there.to(values), layer, layers).clamp_min(1)
    mean = segment_sum(plain, layer, layers) / count
    return torch.where(there, plain - mean[layer], 0.0)


def balance(stats: Statistics, at: Ranges, weighing: Weighing) -> float:
    """The sum of squared deviations."""
    total = 0.0
    for values, layer, weight in parts(stats, at, weighing):
        total += weight * float(deviation(values, layer, stats.layers).square().sum())
    return total


def parts(stats: Statistics, at: Ranges, weighing: Weighing) -> list[tuple[Tensor, Tensor, float]]:
    """Ranges with their layers and their weight in the balance."""
    listed = [(at.rows, stats.row_layer, weighing.rows), (at.columns, stats.column_layer, weighing.columns)]
    if at.inputs is not None:
        listed.append((at.inputs, stats.column_layer, weighing.inputs))
    return listed
