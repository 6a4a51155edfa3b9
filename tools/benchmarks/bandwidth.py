"""Bandwidth: `apply_` compared with one in-place multiplication of the same parameters, the bound of the memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.tools.benchmarks.models import real
from fxteleport.tools.benchmarks.timing import Figure, alternate, figure, ratio
from fxteleport.tools.models.request import Request


@dataclass(frozen=True)
class Bandwidth:
    """The time of `apply_`, divided by that of one multiplication."""

    model: str
    megabytes_float32: float
    apply_ms_float32: Figure
    apply_ratio_float32: Figure | None
    apply_ms_bfloat16: Figure
    apply_ratio_bfloat16: Figure | None


def bandwidth(spec: str, wanted: Request, repeats: int) -> Bandwidth:
    """Measure one model."""
    size, single, single_ratio = applied(*real(spec, replace(wanted, dtype=torch.float32)), repeats)
    _, half, half_ratio = applied(*real(spec, replace(wanted, dtype=torch.bfloat16)), repeats)
    return Bandwidth(spec, size, single, single_ratio, half, half_ratio)


def applied(model: nn.Module, x: Tensor, repeats: int) -> tuple[float, Figure, Figure | None]:
    """Megabytes of parameters, milliseconds of an `apply_`, and its ratio to one multiplication."""
    plan = ft.plan(model, x, mode="weights", norm_stats="rescaled")
    cob = plan.sample(0.5, exact=True, seed=0)
    undo = cob.inverse()
    parameters = [p.data for p in dict.fromkeys(model.parameters())]

    def apply() -> None:
        plan.apply_(cob)
        plan.apply_(undo)

    def multiply() -> None:
        for factor in (2.0, 0.5):
            torch._foreach_mul_(parameters, factor)

    ours, floor = alternate([apply, multiply], repeats)
    assert ours is not None
    size = sum(p.numel() * p.element_size() for p in parameters)
    return size / 1e6, figure([s / 2 for s in ours], 1e-3), ratio(ours, floor)
