"""Solution: every symbol as a monomial of the free values, packed into arrays."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fxteleport.passes.domain.constraints import Origin

# What a free value may be.
FREE, POSITIVE, UNIT = 0, 1, 2

Array = np.ndarray  # type: ignore[type-arg]


@dataclass(frozen=True, eq=False)
class Solution:
    """Every symbol as a monomial of the free values.

    Attributes:
        num_free: number of independent CoB values.
        allows: int8 [num_free]: FREE, POSITIVE (no sign) or UNIT (nothing but a sign).
        index, exponent: int64 [symbols]: the free value (`num_free` for none) and its exponent +-1.
        many, many_index, many_exponent: the symbols that are longer monomials, and their terms, padded.
        reason: int64 [symbols]: why the symbol is pinned, an index into `origins`, or -1.
        origins: the constraints that pin.
    """

    num_free: int
    allows: Array
    index: Array
    exponent: Array
    many: Array
    many_index: Array
    many_exponent: Array
    reason: Array
    origins: list[Origin]

    def tau(self, values: Tensor) -> Tensor:
        """tau of every symbol, float64 [symbols], from the free values [num_free]; differentiable."""
        return self.numbers(values)[self.place.to(values.device)]

    def numbers(self, values: Tensor) -> Tensor:
        """The distinct values of tau, then their inverses: float64; differentiable in the free values."""
        columns = [values, values.new_ones(1)]
        if len(self.many):
            powers = torch.from_numpy(self.many_exponent).to(values.device)
            terms = torch.cat(columns)[torch.from_numpy(self.many_index).to(values.device)] ** powers
            columns.append(terms.prod(1))
        distinct = torch.cat(columns)
        return torch.cat([distinct, distinct.reciprocal()])

    @functools.cached_property
    def place(self) -> Tensor:
        """Where each symbol's value is among the `numbers`: int64 [symbols]."""
        place = np.where(self.exponent < 0, self.index + self.half, self.index)
        place[self.many] = np.arange(self.num_free + 1, self.half)
        return torch.from_numpy(place)

    def keys(self, differ: Array | None = None) -> Array:
        """A 64-bit hash of every symbol, additive in the exponents of its monomial: 0 is structurally 1.

        Args:
            differ: bool [num_free]: the free values that count; the others are taken for 1.
        """
        random = np.random.default_rng(0).integers(-(2**62), 2**62, self.num_free)
        key = np.append(random if differ is None else np.where(differ, random, 0), 0)
        result: Array = key[self.index] * self.exponent
        result[self.many] = (key[self.many_index] * self.many_exponent).sum(1)
        return result

    @functools.cached_property
    def lowest(self) -> Array:
        """What free values lie above, float32; nothing does for a unit, so that those are looked at closely."""
        lowest = np.where(self.allows == POSITIVE, 0.0, np.where(self.allows == UNIT, np.inf, -np.inf))
        return lowest.astype(np.float32)

    @property
    def half(self) -> int:
        """How many distinct values there are; the inverses come behind them."""
        return self.num_free + 1 + len(self.many)


def packed(per_symbol, sign: Array, allows: Array, reason: Array, origins: list[Origin]) -> Solution:  # type: ignore[no-untyped-def]
    """Pack monomials: one term a symbol, and a padded table for the symbols with more."""
    n, free = per_symbol.shape
    terms = np.diff(per_symbol.indptr)
    index, exponent = np.full(n, free), np.ones(n, np.int64)
    at = per_symbol.indptr[:-1]
    plain = (terms == 1) & (
        np.abs(per_symbol.data[np.minimum(at, max(per_symbol.nnz - 1, 0))]) == 1 if per_symbol.nnz else False
    )
    index[plain] = per_symbol.indices[at[plain]]
    exponent[plain] = per_symbol.data[at[plain]] * sign[plain]
    many = np.flatnonzero((terms > 0) & ~plain)
    width = int(terms[many].max()) if len(many) else 0
    many_index = np.full((len(many), width), free)
    many_exponent = np.ones((len(many), width), np.int64)
    for k in range(width):  # over the terms of the longest monomial, not over symbols
        has = terms[many] > k
        rows = many[has]
        many_index[has, k] = per_symbol.indices[at[rows] + k]
        many_exponent[has, k] = per_symbol.data[at[rows] + k] * sign[rows]
    return Solution(free, allows, index, exponent, many, many_index, many_exponent, reason, origins)
