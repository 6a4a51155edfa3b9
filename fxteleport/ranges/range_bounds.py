"""Range bounds: the bounds of a number format on the powers of two of a plan, as linear inequalities.

With free values 2^k the magnitude m of a channel becomes m 2^(a . k), where a are the integer exponents of its
monomial. It is below the format's largest number if `a . k <= log2(largest / m)`, and well in the normal range if `a .
k >= log2(DEPTH tiny / m)`. Right sides are rounded to integers, which changes nothing for integer k.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.domain.solution import Array
from fxteleport.plan.analysis import Analysis
from fxteleport.ranges.log_basis import LogBasis, Slots

DEAD = 2.0**-16  # a channel below this share of its tensor's largest is not lifted into the normal range
DEPTH = 2.0**6  # a channel's largest element is to be this far above the smallest normal number, for smaller elements


@dataclass
class Bounds:
    """Inequalities `low <= a . k <= high`, one for each different monomial.

    Attributes:
        num_free: the number of k.
        terms: monomial -> its free values and exponents.
        low, high: monomial -> its bounds.
    """

    num_free: int
    terms: dict[int, tuple[Array, Array]] = field(default_factory=dict)
    low: dict[int, float] = field(default_factory=dict)
    high: dict[int, float] = field(default_factory=dict)

    def add(self, slots: Slots, low: Tensor, high: Tensor) -> None:
        """Add those of some slots; float64 [slots.count], infinite where there is none."""
        shape = (slots.count, self.num_free)
        at, free, power = (x.numpy() for x in (slots.at, slots.free, slots.power))
        matrix = sparse.csr_matrix((power, (at, free)), shape)  # sums equal terms
        matrix.eliminate_zeros()
        random = np.random.default_rng(0).integers(-(2**49), 2**49, self.num_free).astype(np.float64)
        keys = matrix @ random
        for i in range(slots.count):
            terms = slice(matrix.indptr[i], matrix.indptr[i + 1])
            if terms.start == terms.stop:
                continue  # pinned: it cannot change
            key = int(keys[i])
            if key not in self.terms:
                self.terms[key] = matrix.indices[terms].copy(), matrix.data[terms].copy()
            self.low[key] = max(self.low.get(key, -math.inf), float(low[i]))
            self.high[key] = min(self.high.get(key, math.inf), float(high[i]))

    def matrix(self) -> tuple[sparse.csr_matrix, Array, Array]:
        """The inequalities: [n, num_free], low [n], high [n]."""
        keys = list(self.terms)
        rows = np.repeat(np.arange(len(keys)), [len(self.terms[k][0]) for k in keys])
        free = np.concatenate([self.terms[k][0] for k in keys]) if keys else np.empty(0, np.int64)
        power = np.concatenate([self.terms[k][1] for k in keys]) if keys else np.empty(0)
        low, high = np.array([self.low[k] for k in keys]), np.array([self.high[k] for k in keys])
        return sparse.csr_matrix((power, (rows, free)), (len(keys), self.num_free)), low, high


def by_symbol(value: Tensor, shape: torch.Size) -> Tensor:
    """The largest magnitudes of a tensor, reduced to a shape that broadcasts to its own: float64."""
    size = value.detach().abs().double().cpu()
    axes = [i for i, n in enumerate((1,) * (size.ndim - len(shape)) + tuple(shape)) if n == 1]
    reduced: Tensor = (size.amax(axes, keepdim=True) if axes and size.numel() else size).reshape(shape)
    return reduced


def varying(cob: CobMap, rank: int) -> torch.Size:
    """The shape in which a map varies: of the tensor's rank, 1 where it is constant."""
    shape: torch.Size = torch.broadcast_shapes((1,) * rank, *(s.shape for s, _ in cob.factors))
    return shape


def slots_of(plan: Analysis, cob: CobMap, at: Tensor, shape: torch.Size) -> Slots:
    """The slots of the elements at some flat positions of the shape in which a map varies."""
    basis = LogBasis(plan.solution)
    parts = [basis.symbols(s.expand(shape).reshape(-1)[at], exponent) for s, exponent in cob.factors]
    columns = (torch.cat([getattr(p, name) for p in parts]) for name in ("at", "free", "power"))
    return Slots(len(at), *columns)


def extremes(size: Tensor) -> Tensor:
    """The flat positions of the largest element of each slice along each varying axis: of rows and of columns."""
    if size.ndim == 0 or size.numel() == 1:
        return torch.zeros(size.numel(), dtype=torch.int64)
    positions = torch.arange(size.numel()).view(size.shape)
    chosen: Tensor = torch.cat(list(_of_each_axis(size, positions))).unique()
    return chosen


def _of_each_axis(size: Tensor, positions: Tensor) -> Iterator[Tensor]:
    for axis, n in enumerate(size.shape):
        if n > 1:
            flat, own = size.movedim(axis, 0).reshape(n, -1), positions.movedim(axis, 0).reshape(n, -1)
            yield own.gather(1, flat.argmax(1, keepdim=True)).reshape(-1)


def limits(size: Tensor, largest: float, tiny: float) -> tuple[Tensor, Tensor]:
    """The bounds of a . k for channels of some magnitudes, in whole doublings; infinite for zeros."""
    dead = size <= DEAD * size.max() if size.numel() else size > 0
    low = torch.where(dead, -math.inf, (DEPTH * tiny / size).log2().ceil())
    high = torch.where(size > 0, (largest / size).log2().floor(), math.inf)
    return low, high
