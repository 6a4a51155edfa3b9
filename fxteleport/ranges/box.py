"""Boxes: how far each free value may go."""

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


def box_of(found: Statistics, solution: Solution, bound: float, bias_bound: float) -> Box:
    """The bounds of a plan's free values.

    Values without a free magnitude stay, and so do those whose channels are written by rows of zeros only, or read by
    columns of zeros only: nothing says what range they should have. A channel's bias may grow to `bias_bound` times the
    largest bias of its layer.
    """
    count = solution.num_free
    high = torch.full((count,), math.log(bound), dtype=torch.float64)
    low = -high
    still = torch.from_numpy(solution.allows) == UNIT
    for slots, lives in ((found.rows, found.row_alive), (found.columns, found.column_alive)):
        uses = slots.back(torch.ones(slots.count, dtype=torch.float64), count, squared=True)
        alive = slots.back(lives.double(), count, squared=True)
        still |= (uses > 0) & (alive == 0)
    touched = found.rows.back(torch.ones(found.rows.count, dtype=torch.float64), count, squared=True)
    touched += found.columns.back(torch.ones(found.columns.count, dtype=torch.float64), count, squared=True)
    still |= touched == 0
    low, high = torch.where(still, 0.0, low), torch.where(still, 0.0, high)
    low, high = _for_biases(found, low, high, bias_bound)
    return Box(low, high)


def _for_biases(found: Statistics, low: Tensor, high: Tensor, bias_bound: float) -> tuple[Tensor, Tensor]:
    top = torch.zeros(found.layers, dtype=torch.float64).scatter_reduce(0, found.row_layer, found.bias, "amax")
    room = (math.log(bias_bound) + (top[found.row_layer] / found.bias.clamp_min(1e-300)).log()).clamp(0, 700)
    room = torch.where(found.bias > 0, room, 700.0)
    alone = torch.bincount(found.rows.at, minlength=found.rows.count)[found.rows.at]
    share = room[found.rows.at] / (alone * found.rows.power.abs())  # of a product each factor gets its share
    up = found.rows.power > 0
    high = high.scatter_reduce(0, found.rows.free[up], share[up], "amin")
    low = low.scatter_reduce(0, found.rows.free[~up], -share[~up], "amax")
    return low, high
