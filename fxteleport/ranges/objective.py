r"""Objectives: what a change of basis costs in a number format, from statistics alone.

All are functions of the logarithms u of the free values; r = row, c = column, l = layer, t = exp(u).

*Balance* (`range`, `l2`, `smoothquant`). Sum of squared deviations of log ranges from their tensor's mean:

    sum_l [ (1 - alpha) (sum_r (R_r - mean R)^2 + sum_c (C_c - mean C)^2) + alpha sum_c (X_c - mean X)^2 ]

R, C: logarithms of the largest elements (or Euclidean norms) of rows and columns, X: of the calibrated maxima of input
channels. For two layers without data each channel's minimum is t = sqrt(C / R): cross-layer equalisation (Nagel et
al., "Data-free quantization through weight equalization and bias correction", eq. 11). Without rows it is
t = C^(1 - alpha) / X^alpha: SmoothQuant (Xiao et al., eq. 4).

*Noise* (`noise`). Rounding to steps of size d adds noise of variance d^2 / 12 to each element. At the outputs of layer
l, in units of what those who read them have for a signal, that is

    N_l = d_l^2 / 12 * sum_c a_c t_c^2 * sum_r b_r / t_r^2        (weights; d_l is the format's step: max|W'| / levels)
        + e_l^2 / 12 * sum_c k_c / t_c^2                          (inputs; e_l: max t_c x_c / levels)

with a the mean squares of the input channels, x their largest magnitudes (twice those where a layer's inputs take both
signs: a bound of their range that holds on other data, too), b what squared noise at an output costs (the squared
columns of the layers that read it, over the power of their outputs), k = sum_r b_r w_rc^2.
The objective is the mean of log N_l: it is convex in u (maxima and log-sum-exps of linear functions), so no start is
worse than another. It takes no account of how much each layer's noise is in the outputs: `output_error.py` measures.
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
    """What the numbers are rounded to.

    Attributes:
        bits: of the weights, with a symmetric range.
        per_channel: a scale for each output channel; else one for each tensor.
        activation_bits: of the layers' inputs, with one scale for each tensor; None: they are not rounded.
    """

    bits: int = 8
    per_channel: bool = False
    activation_bits: int | None = None


def noise(found: Statistics, logs: Tensor, form: Format) -> Tensor:
    """The logarithm of the noise-to-signal ratio, the mean over the layers; differentiable."""
    rows, columns, peaks = found.rows.of(logs), found.columns.of(logs), found.peaks_at(logs)
    cost = found.use.log() - 2 * rows
    if form.per_channel:
        own = segment_max(peaks, found.peak_row, found.rows.count)
        cost = torch.where(own.isfinite(), cost + 2 * own, -math.inf)
    gain = 2 * columns + found.signal_in.clamp_min(_TINY).log()
    blocks = len(found.block_layer)
    each = segment_logsumexp(gain, found.column_block, blocks) + segment_logsumexp(cost, found.row_block, blocks)
    total = segment_logsumexp(each, found.block_layer, found.layers) + found.positions.log() + _step(form.bits - 1)
    if not form.per_channel:
        total = total + 2 * segment_max(peaks, found.row_layer[found.peak_row], found.layers)
    if form.activation_bits is not None and found.largest_in is not None:
        total = torch.logaddexp(total, _of_inputs(found, rows, columns, form.activation_bits))
    alive = total.isfinite()
    return torch.where(alive, total, 0.0).sum() / max(1, int(alive.sum()))


def _of_inputs(found: Statistics, rows: Tensor, columns: Tensor, bits: int) -> Tensor:
    """The noise that rounded inputs make, by layer."""
    assert found.largest_in is not None
    peak = segment_max(columns + found.largest_in.clamp_min(_TINY).log(), found.column_layer, found.layers)
    cost = (found.column_cost.clamp_min(_TINY)).log() - 2 * columns
    width = peak + torch.where(found.signed_in, math.log(2.0), 0.0)
    return 2 * width + segment_logsumexp(cost, found.column_layer, found.layers) + _step(bits)


def _step(bits: int) -> float:
    """The logarithm of the variance of rounding a range of 1 to so many bits."""
    return -2 * math.log(2**bits - 1) - math.log(12)


@dataclass(frozen=True)
class Weighing:
    """How much the ranges of rows, columns and inputs count in a balance."""

    rows: float = 1.0
    columns: float = 1.0
    inputs: float = 0.0


@dataclass(frozen=True, eq=False)
class Ranges:
    """The logarithms of the ranges of all rows, columns and input channels; -inf of those next to zero."""

    rows: Tensor
    columns: Tensor
    inputs: Tensor | None


def ranges(found: Statistics, logs: Tensor, norm: str = "max") -> Ranges:
    """The ranges after a change of basis: the largest elements.

    With norm "l2" Euclidean norms: exact at the basis at which the weights were read; from there on each moves by its
    own CoB only.
    """
    if norm == "l2":
        rows, columns = found.row_norm + found.rows.of(logs), found.column_norm - found.columns.of(logs)
    else:
        peaks = found.peaks_at(logs)
        rows = segment_max(peaks, found.peak_row, found.rows.count)
        columns = segment_max(peaks, found.peak_column, found.columns.count)
    rows = torch.where(found.row_alive, rows, -math.inf)
    columns = torch.where(found.column_alive, columns, -math.inf)
    inputs = None if found.largest_in is None else found.largest_in.log() + found.columns.of(logs)
    return Ranges(rows, columns, inputs)


def deviation(values: Tensor, layer: Tensor, layers: int) -> Tensor:
    """By how much each differs from the mean of its layer; 0 where it is -inf, which does not count."""
    there = values.isfinite()
    plain = torch.where(there, values, 0.0)
    count = segment_sum(there.to(values), layer, layers).clamp_min(1)
    mean = segment_sum(plain, layer, layers) / count
    return torch.where(there, plain - mean[layer], 0.0)


def balance(found: Statistics, at: Ranges, weighing: Weighing) -> float:
    """The sum of squared deviations."""
    total = 0.0
    for values, layer, weight in parts(found, at, weighing):
        total += weight * float(deviation(values, layer, found.layers).square().sum())
    return total


def parts(found: Statistics, at: Ranges, weighing: Weighing) -> list[tuple[Tensor, Tensor, float]]:
    """Ranges, their layers, and what they count."""
    listed = [(at.rows, found.row_layer, weighing.rows), (at.columns, found.column_layer, weighing.columns)]
    if at.inputs is not None:
        listed.append((at.inputs, found.column_layer, weighing.inputs))
    return listed
