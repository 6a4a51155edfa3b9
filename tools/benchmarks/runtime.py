"""Running: emitted networks against the original, forward and back, eager and compiled.

`plain` is a network without a teleported operation (`mode="weights"`), `wrapped` one with signs and teleported
activations (`mode="full"`, landscape "inter"). Both are compared with the model itself, not with its graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.rewrite.teleported_modules import Rescale, TeleportedActivation
from fxteleport.tools.benchmarks.models import real
from fxteleport.tools.benchmarks.timing import Figure, alternate, ratio
from fxteleport.tools.models.request import Request


@dataclass(frozen=True)
class Running:
    """Times divided by the original's; `wraps` is the number of operations that the wrapped network adds."""

    model: str
    how: str
    wraps: int
    plain_forward: Figure | None
    wrapped_forward: Figure | None
    plain_both: Figure | None
    wrapped_both: Figure | None


def running(spec: str, wanted: Request, repeats: int, compiled: bool = False) -> Running:
    """Measure one model; `both` is forward and backward."""
    model, x = real(spec, wanted)
    weights, full = ft.plan(model, x, mode="weights", norm_stats="rescaled"), ft.plan(model, x)
    networks: list[nn.Module] = [
        model.eval(),
        weights.rewrite(weights.sample(0.5, seed=0)).eval(),
        full.rewrite(full.sample(0.9, "inter", seed=0)).eval(),
    ]
    wraps = sum(isinstance(m, (TeleportedActivation, Rescale)) for m in networks[2].modules())
    run: list[Any] = [_compiled(net) for net in networks] if compiled else networks
    with torch.no_grad():
        one, plain, wrapped = alternate([functools.partial(net, x) for net in run], repeats)
    both = alternate([_there_and_back(net, net_run, x) for net, net_run in zip(networks, run, strict=True)], repeats)
    return Running(
        spec,
        "compiled" if compiled else "eager",
        wraps,
        ratio(plain, one),
        ratio(wrapped, one),
        ratio(both[1], both[0]),
        ratio(both[2], both[0]),
    )


def _compiled(net: nn.Module) -> Callable[[Tensor], Any]:
    torch._dynamo.reset()
    return torch.compile(net)


def _there_and_back(net: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> Callable[[], None]:
    def step() -> None:
        net.zero_grad()
        run(x).sum().backward()

    return step
