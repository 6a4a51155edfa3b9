"""Boxes: bounds of the free values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fxteleport.passes.domain.solution import UNIT, Solution
from fxteleport.ranges.statistics import Statistics


@dataclass(frozen=True, eq=False)
class Box:
    """Bounds of the logarithms of the free values, float64 [num_free]; 0 is between them."""

    low: Tensor
    high: Tensor

    def put(self, logs: Tensor) -> Tensor:
        """The nearest logarithms in the box."""
        return torch.minimum(torch.maximum(logs, self.low), self.high)

    @property
    def is_a_point(self) -> bool:
        """True where nothing may move."""
        return not bool((self.high > self.low).any())


def box_of(stats: Statistics, solution: Solution, bound: float, bias_bound: float) -> Box:
    """The bounds of a plan's free values.

    Values without a free magnitude are fixed, and so are those whose channels are written by rows of zeros only, or
    read by columns of zeros only: no range depends on them. A channel's bias may grow to `bias_bound` times the largest
    bias of its layer.
    """
    count = solution.num_free
    high = torch.full((count,), math.log(bound), dtype=torch.float64)
    low = -high
    still = torch.from_numpy(solution.allows) == UNIT
    for slots, lives in ((stats.rows, stats.row_alive), (stats.columns, stats.column_alive)):
        uses = slots.back(torch.ones(slots.count, dtype=torch.float64), count, squared=True)
        alive = slots.back(lives.double(), count, squared=True)
        still |= (uses > 0) & (alive == 0)
    touched = stats.rows.back(torch.ones(stats.rows.count, dtype=torch.float64), count, squared=True)
    touched += stats.columns.back(torch.ones(stats.columns.count, dtype=torch.float64), count, squared=True)
    still |= touched == 0
    low, high = torch.where(still, 0.0, low), torch.where(still, 0.0, high)
    low, high = _for_biases(stats, low, high, bias_bound)
    return Box(low, high)


def _for_biases(stats: Statistics, low: Tensor, high: Tensor, bias_bound: float) -> tuple[Tensor, Tensor]:
    top = torch.zeros(stats.layers, dtype=torch.float64).scatter_reduce(0, stats.row_layer, stats.bias, "amax")
    room = (math.log(bias_bound) + (top[stats.row_layer] / stats.bias.clamp_min(1e-300)).log()).clamp(0, 700)
    room = torch.where(stats.bias > 0, room, 700.0)
    alone = torch.bincount(stats.rows.at, minlength=stats.rows.count)[stats.rows.at]
    share = room[stats.rows.at] / (alone * stats.rows.power.abs())  # of a product each factor gets its share
    up = stats.rows.power > 0
    high = high.scatter_reduce(0, stats.rows.free[up], share[up], "amin")
    low = low.scatter_reduce(0, stats.rows.free[~up], -share[~up], "amax")
    return low, high
