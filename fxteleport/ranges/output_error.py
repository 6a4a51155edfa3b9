"""Output error: the error of a number format at a network's outputs, measured on a user's data, without labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxteleport.passes.graph.containers import leaves
from fxteleport.plan.analysis import Analysis
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.emission import rewrite
from fxteleport.plan.free_values import identity
from fxteleport.ranges.calibrate import batches
from fxteleport.ranges.fake_quantize import fake_quantize
from fxteleport.ranges.objective import Format


@torch.no_grad()
def output_errors(plan: Analysis, cobs: Sequence[ChangeOfBasis], form: Format, data: Iterable[Any]) -> list[float]:
    """The noise-to-signal ratio at the outputs for each change of basis: |rounded - float|^2 / |float|^2.

    Of several batches every second one sets the ranges of the activations, and the others are measured: values outside
    of an observed range are clipped, as they will be on other data.

    Infinity where rounding gives NaN or infinity; NaN where the network has no floating-point outputs.
    """
    kept = list(data)
    seen, measured = (kept, kept) if form.activation_bits is None or len(kept) < 2 else (kept[::2], kept[1::2])
    exact = rewrite(plan, identity(plan))
    rounded: list[fx.GraphModule] = []
    for cob in cobs:
        calibrated = None if form.activation_bits is None else seen
        rounded.append(fake_quantize(rewrite(plan, cob), form.bits, form.per_channel, form.activation_bits, calibrated))
    signal, wrong = 0.0, [0.0] * len(rounded)
    for args, kwargs in batches(measured):
        expected = _fractions(exact(*args, **kwargs))
        signal += _power(expected)
        for i, network in enumerate(rounded):
            actual = _fractions(network(*args, **kwargs))
            wrong[i] += _power([a.double() - b.double() for a, b in zip(actual, expected, strict=True)])
    if not signal:
        return [math.nan] * len(wrong)
    return [w / signal if math.isfinite(w) else math.inf for w in wrong]


def _fractions(value: Any) -> list[Tensor]:
    return [x for x in leaves(value) if isinstance(x, Tensor) and x.is_floating_point()]


def _power(values: Sequence[Tensor]) -> float:
    return sum(float(x.double().square().sum()) for x in values)
