"""Equalise: choose the change of basis of any plan so that rounding to a number format loses least.

    plan + weights (+ data) -> statistics -> minimise an objective over the free values -> ChangeOfBasis

The function is the same, as under any change of basis. `objective.py` has the formulas.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxteleport.checked import checked
from fxteleport.passes.errors import InputError, NothingFree
from fxteleport.plan.analysis import Analysis
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.free_values import check
from fxteleport.plan.model_snapshot import ModelSnapshot
from fxteleport.plan.weights import matching_tensors, require_planned
from fxteleport.ranges.balance import balanced
from fxteleport.ranges.box import Box, box_of
from fxteleport.ranges.calibrate import Channels, calibrate
from fxteleport.ranges.choices import check_choices
from fxteleport.ranges.descent import descend
from fxteleport.ranges.objective import Format, Weighing, balance, noise, ranges
from fxteleport.ranges.output_error import output_errors
from fxteleport.ranges.statistics import Statistics, gather, watched_axes

_SHARES = (0.0, 1.0, 0.5)  # of the logarithms that are compared: the identity, the optimum, and half of it
_READINGS = 3  # of the weights: other elements become the largest on the way
Told = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Equalized:
    """The result of equalising.

    Attributes:
        cob: the change of basis.
        before, after: the method's objective without it, and with it.
        noise_before, noise_after: the modelled noise-to-signal ratio of a layer (geometric mean), whatever the method.
        error_before, error_after: that of the outputs, measured on the data; None without data.
        share: how much of the optimum is in `cob`: 1 (for "noise" with data, of its optimum or that of "range"), 0.5
            (in logarithms), or 0 where it did not help.
    """

    cob: ChangeOfBasis
    before: float
    after: float
    noise_before: float
    noise_after: float
    error_before: float | None
    error_after: float | None
    share: float


@checked
def equalize(
    plan: Analysis, method: str = "range", data: Iterable[Any] | None = None, **settings: Any
) -> ChangeOfBasis:
    """A change of basis with which rounding the weights to an integer format loses least; the function is the same.

    With data, the optimum of the method, half of it, and the identity are compared by the error at the outputs, rounded
    as the format rounds; the identity is taken unless the best error is `least_gain` times smaller than its own.
    Without data the modelled noise of the weights decides, whatever the gain.

    Args:
        plan: of a model with weights; of one without batch norms (`fold_norms`), or with `norm_stats="rescaled"`.
        method: "range" makes the largest elements of rows and columns alike, "l2" their norms, both in closed form;
            "noise" minimises the noise-to-signal ratio of rounding, and with data also compares the result of "range";
            "smoothquant" balances columns against activations; "awq" scales columns by a power of the activations, the
            best of 21.
        data: batches to measure the activations on, each as the model's forward takes it: a tensor, a tuple, or a
            mapping. "smoothquant", "awq" and `activation_bits` need them; "noise" takes its mean squares from them.
            They are read several times, so all batches are held in memory; labels are not needed.
        settings: those of `equalized`, which also returns the objective before and after.

    Raises:
        TeleportError: as `equalized` raises.
    """
    return equalized(plan, method, data, **settings).cob


@checked
def equalized(
    plan: Analysis,
    method: str = "range",
    data: Iterable[Any] | None = None,
    bits: int = 8,
    exact: bool = False,
    bound: float = 1024.0,
    bias_bound: float = 64.0,
    per_channel: bool = False,
    activation_bits: int | None = None,
    alpha: float = 0.5,
    least_gain: float = 2.0,
    progress: Told = lambda _: None,
    weights: Mapping[str, Tensor] | None = None,
) -> Equalized:
    """As `equalize`, with the objective before and after.

    Args:
        bits: of the weights, 2 to 16.
        exact: powers of two only: the network equals the original to the last bit.
        bound: the largest factor (and the inverse of the smallest) that a free value may be.
        bias_bound: how many times its layer's largest bias any bias may become.
        per_channel: the weights get a scale for each output channel, so that only columns matter.
        activation_bits: the layers' inputs are rounded, too, with one scale for each tensor.
        alpha: 0 to 1: how much activations count against weights (as in SmoothQuant).
        least_gain: how many times smaller the squared error must become, from 1 (any gain is taken). Rounding errors
            are random under each change of basis, so a small gain may be chance; 2 is half a bit.
        progress: called with the name of the next step.
        weights: tensors in place of the planned model's, which may be on the meta device: those of
            `fxteleport.checkpoint_tensors`, say. Each is read once, so in the end a row's largest element may not be
            among those that were kept; method "l2", and data, need the model.

    Raises:
        NothingFree: no free value of the plan scales rows or columns of weights.
        InputError: an unknown method or an invalid setting; data are missing, empty or do not fit.
        ModelError: the model is on the meta device, has changed since it was planned, or has weights that are
            quantised or NaN.
    """
    check_choices(method, bits, bound, bias_bound, activation_bits, alpha, data is not None, least_gain)
    if weights is None:
        require_planned(plan)
    elif method == "l2" or data is not None:
        raise InputError("weights that are read once go with neither method 'l2' nor data: give the model its weights")
    if not plan.num_free:
        raise NothingFree("nothing in this plan is free, so there is nothing to equalise: `plan.groups` says why")
    tensors = weights or matching_tensors(plan.captured, ModelSnapshot(plan.captured.model).tensors)
    kept = None if data is None else list(data)
    seen = None if kept is None else calibrate(plan, kept, watched_axes(plan), progress)
    form = Format(bits, per_channel, activation_bits)
    search = Search(plan, tensors, kept, seen, form, alpha, progress, weights is not None)
    return search.run(method, bound, bias_bound, exact, least_gain)


@dataclass(frozen=True, eq=False)
class Search:
    """The search for one change of basis.

    Attributes:
        plan: the plan.
        weights: the model's tensors, by name.
        data: batches, or None.
        seen: the calibrated statistics of the data, or None.
        form: the number format.
        alpha: how much activations count.
        progress: called with the name of the next step.
        reads_once: use the statistics of the identity throughout.
    """

    plan: Analysis
    weights: Mapping[str, Tensor]
    data: list[Any] | None
    seen: Mapping[str, Channels] | None
    form: Format
    alpha: float
    progress: Told
    reads_once: bool = False

    def run(self, method: str, bound: float, bias_bound: float, exact: bool, least_gain: float) -> Equalized:
        """Search by a method."""
        identity = torch.zeros(self.plan.num_free, dtype=torch.float64)
        stats = self.read(identity)
        box = box_of(stats, self.plan.solution, bound, bias_bound)
        if box.is_a_point:
            raise NothingFree(
                "no free value of this plan has a magnitude that scales the rows and columns of a weight, so there is"
                " nothing to equalise: `plan.groups` says what is pinned, and why"
            )
        first = stats
        logs, stats = self.searched(method, stats, identity, box)
        self.progress("measuring")
        steps, shares = [share * logs for share in _SHARES], list(_SHARES)
        if method == "noise" and self.data is not None:
            steps.append(self.closed(first, box))
            shares.append(1.0)
        tried = [_whole(step, box) if exact else step for step in steps]
        read = [first if self.reads_once else self.read(u) for u in tried]
        noises = [math.exp(float(noise(near, u, self.form))) for near, u in zip(read, tried, strict=True)]
        cobs = [self.cob(u, exact) for u in tried]
        errors = self.errors(cobs)
        measure = noises if errors is None else errors
        values = [self.value(method, near, u) for near, u in zip(read, tried, strict=True)]
        kept = [i for i, value in enumerate(values) if value <= values[0]]
        best = min(kept, key=lambda i: measure[i])
        if errors is not None and errors[best] * least_gain > errors[0]:  # a measured error is one draw
            best = 0
        error_before, error_after = (None, None) if errors is None else (errors[0], errors[best])
        return Equalized(
            cobs[best], values[0], values[best], noises[0], noises[best], error_before, error_after, shares[best]
        )

    def cob(self, logs: Tensor, exact: bool) -> ChangeOfBasis:
        """The change of basis of some logarithms."""
        cob = ChangeOfBasis((logs / math.log(2)).round().exp2() if exact else logs.exp(), self.plan.fingerprint)
        check(self.plan, cob)
        return cob

    def errors(self, cobs: list[ChangeOfBasis]) -> list[float] | None:
        """The measured errors at the outputs; None without data, or where no output is a floating-point tensor."""
        if self.data is None:
            return None
        measured = output_errors(self.plan, cobs, self.form, self.data)
        return None if math.isnan(measured[0]) else measured

    def read(self, logs: Tensor) -> Statistics:
        """Read the weights once, for changes of basis near to this one."""
        return gather(self.plan, self.weights, self.seen, logs, self.progress)

    def searched(self, method: str, stats: Statistics, logs: Tensor, box: Box) -> tuple[Tensor, Statistics]:
        """The best logarithms by a method, and the statistics with which they were found."""
        if method == "awq":
            return self.powers(stats, box), stats
        rounds = 1 if self.reads_once else _READINGS if method != "l2" else 4 * _READINGS
        for i in range(rounds):
            self.progress(f"reading {i + 1}/{rounds}")
            if method == "l2":  # a norm is exact at the basis where it was read, so it is read after each step
                logs = balanced(stats, logs, box, self.weighing(method), "l2", steps=1)
            elif method == "noise":
                logs = descend(stats, logs, box, self.form)
            else:
                logs = balanced(stats, logs, box, self.weighing(method), "max")
            if i + 1 < rounds:
                stats = self.read(logs)
        return logs, stats

    def closed(self, stats: Statistics, box: Box) -> Tensor:
        """The closed form of "range" on the weights alone, since with few bits the noise model is wrong."""
        logs = torch.zeros(self.plan.num_free, dtype=torch.float64)
        weighing = Weighing(0.0 if self.form.per_channel else 1.0)
        for i in range(_READINGS):
            logs = balanced(stats, logs, box, weighing, "max")
            if i + 1 < _READINGS:
                stats = self.read(logs)
        return logs

    def weighing(self, method: str) -> Weighing:
        """The weights of rows, columns and inputs in a balance."""
        inputs = self.alpha if self.seen is not None and (method == "smoothquant" or self.form.activation_bits) else 0.0
        rows = 0.0 if self.form.per_channel else 1 - inputs
        return Weighing(rows, 1 - inputs, inputs)

    def value(self, method: str, stats: Statistics, logs: Tensor) -> float:
        """The method's own objective."""
        if method in ("noise", "awq"):
            return float(noise(stats, logs, self.form))
        norm = "l2" if method == "l2" else "max"
        return balance(stats, ranges(stats, logs, norm), self.weighing(method))

    def powers(self, stats: Statistics, box: Box) -> Tensor:
        """AWQ's search: columns times a power (0, 1/20... 1) of their input's size."""
        assert self.seen is not None
        size = 0.5 * stats.signal_in.clamp_min(1e-300).log()
        balanced_logs = balanced(
            dataclasses.replace(stats, largest_in=size.exp()), torch.zeros(self.plan.num_free, dtype=torch.float64),
            box, Weighing(0.0, 0.0, 1.0), "max",
        )  # fmt: skip
        self.progress("measuring")
        tried = [box.put(balanced_logs * k / 20) for k in range(21)]
        return min(tried, key=lambda logs: float(noise(stats, logs, self.form)))


def _whole(logs: Tensor, box: Box) -> Tensor:
    """The nearest logarithms of whole powers of two in a box."""
    doublings = Box((box.low / math.log(2)).ceil(), (box.high / math.log(2)).floor())
    return doublings.put((logs / math.log(2)).round()) * math.log(2)
