"""Growth: how planning time grows with depth and with width, on synthetic networks without weights."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.tools.benchmarks.timing import Figure, alternate, figure


@dataclass(frozen=True)
class Growth:
    """Planning one network of a family.

    Attributes:
        exponent: of the power law through this and all smaller sizes of the family; None for the first two.
    """

    family: str
    size: int
    nodes: int
    neurons: int
    plan_ms: Figure
    exponent: float | None


class Residual(nn.Module):
    """x + down(relu(up(norm(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = self.down(torch.relu(self.up(self.norm(x))))
        return x + moved


def _chain(layers: int) -> nn.Module:
    parts = (part for _ in range(layers) for part in (nn.Linear(16, 16), nn.ReLU()))
    return nn.Sequential(*parts, nn.Linear(16, 16))


def _residual(layers: int) -> nn.Module:
    return nn.Sequential(nn.Linear(16, 16), *(Residual(16) for _ in range(layers // 2)), nn.Linear(16, 16))


def _wide(neurons: int) -> nn.Module:
    wide = neurons // 2
    return nn.Sequential(nn.Linear(16, wide), nn.GELU(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, 16))


FAMILIES: dict[str, tuple[Callable[[int], nn.Module], tuple[int, ...]]] = {
    "layers": (_chain, (100, 300, 1_000, 3_000, 10_000)),
    "residual layers": (_residual, (100, 300, 1_000, 3_000, 10_000)),
    "neurons": (_wide, (10_000, 100_000, 1_000_000, 3_000_000, 10_000_000)),
}


def growth(family: str, repeats: int, largest: float = math.inf) -> Iterator[Growth]:
    """Measure the networks of a family, small to large."""
    build, sizes = FAMILIES[family]
    x = torch.zeros(2, 16)
    known: list[tuple[int, float]] = []
    for size in (s for s in sizes if s <= largest):
        with torch.device("meta"):  # the widest weight would take a terabyte
            model = build(size).eval()
        (seconds,) = alternate([lambda model=model: ft.plan(model, x)], repeats)  # type: ignore[misc]
        assert seconds is not None
        plan = ft.plan(model, x)
        neurons = sum(m.out_features for m in model.modules() if isinstance(m, nn.Linear))
        known.append((size, statistics.median(seconds)))
        exponent = _exponent(known) if len(known) > 2 else None
        yield Growth(family, size, len(plan.captured.graph.nodes), neurons, figure(seconds, 1e-3), exponent)


def _exponent(known: list[tuple[int, float]]) -> float:
    sizes, seconds = np.log(np.array(known)).T
    return float(np.polyfit(sizes, seconds, 1)[0])
