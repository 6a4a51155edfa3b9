"""Logarithms of changes of basis: the log of a channel's factor is linear in the logs of the free values.

The CoB of a symbol is a monomial of the free values, so its logarithm is a sum of theirs with integer coefficients. A
*slot* is one channel of one tensor, as a row of that linear map; all slots are evaluated at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.domain.solution import Array, Solution


@dataclass(frozen=True, eq=False)
class Slots:
    """A linear map from the logarithms of the free values to those of the factors of some channels.

    Attributes:
        count: the number of slots.
        at, free, power: int64 and float64 [terms]: to slot `at` belongs `power * log|free value|`.
    """

    count: int
    at: Tensor
    free: Tensor
    power: Tensor

    def of(self, logs: Tensor) -> Tensor:
        """float64 [count] from [num_free]; differentiable."""
        return logs.new_zeros(self.count).index_add(0, self.at, self.power * logs[self.free])

    def back(self, values: Tensor, num_free: int, squared: bool = False) -> Tensor:
        """The transposed map, [count] -> [num_free]; or that of the squared coefficients."""
        power = self.power.square() if squared else self.power
        return values.new_zeros(num_free).index_add(0, self.free, power * values[self.at])


def joined(parts: Sequence[Slots]) -> Slots:
    """Lists of slots one after another."""
    starts = [0, *itertools.accumulate(p.count for p in parts)]
    return Slots(
        starts[-1],
        torch.cat([p.at + start for p, start in zip(parts, starts[:-1], strict=True)]),
        torch.cat([p.free for p in parts]),
        torch.cat([p.power for p in parts]),
    )


class LogBasis:
    """Makes slots from the maps of a plan."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        self._many = np.full(len(solution.index), -1)
        self._many[solution.many] = np.arange(len(solution.many))

    def channels(self, cob: CobMap, axis: int, count: int) -> Slots:
        """The slots of a tensor's channels; factors that vary along other axes are left out."""
        slots = Slots(count, *(torch.empty(0, dtype=d) for d in (torch.int64, torch.int64, torch.float64)))
        for symbols, exponent in cob.factors:
            position = axis if axis >= 0 else symbols.ndim + axis
            along = symbols.shape[position] if symbols.ndim > position else 1
            if along != symbols.numel() or not along:
                continue
            slots = _added(slots, self.symbols(symbols.reshape(-1).expand(count), exponent))
        return slots

    def symbols(self, symbols: Tensor, exponent: int) -> Slots:
        """The slots of some symbols [n], to a power."""
        own = symbols.numpy()
        many = self._many[own]
        at, free, power = _plain(self.solution, own, many)
        long = np.flatnonzero(many >= 0)
        if len(long):
            index = self.solution.many_index[many[long]]
            width = index.shape[1]
            at = np.concatenate([at, np.repeat(long, width)])
            free = np.concatenate([free, index.reshape(-1)])
            power = np.concatenate([power, self.solution.many_exponent[many[long]].reshape(-1)])
        kept = free < self.solution.num_free
        parts = (at[kept].astype(np.int64), free[kept].astype(np.int64), power[kept].astype(np.float64) * exponent)
        return Slots(len(own), *map(torch.from_numpy, parts))


def _plain(solution: Solution, own: Array, many: Array) -> tuple[Array, Array, Array]:
    short = np.flatnonzero(many < 0)
    return short, solution.index[own[short]], solution.exponent[own[short]]


def _added(a: Slots, b: Slots) -> Slots:
    """The sums of two lists of slots."""
    parts = (torch.cat([x, y]) for x, y in ((a.at, b.at), (a.free, b.free), (a.power, b.power)))
    return Slots(a.count, *parts)
