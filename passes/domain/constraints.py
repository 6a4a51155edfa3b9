"""The system of constraints: monomial equations between symbols.

Every constraint is a batch of equations `prod_k tau[symbols_k] ** exponent_k = 1`, one for each position:
`same(a, b)` is a / b, `inverse(a, b)` is a * b, `product(z, x, y)` is z / (x * y), `pinned(a)` is a. Beside
them stand two one-sided ones: `positive` (the sign is pinned) and `unit` (the magnitude is pinned). Each batch
remembers the node and the reason it came from.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fxteleport.passes.domain.cob_map import ANY, CobMap, support
from fxteleport.passes.errors import RuleError
from fxteleport.passes.record import record


@record()
class Origin:
    """Where a constraint or a symbol comes from: a node (or parameter) name and a reason in words."""

    node: str
    why: str


@record(eq=False)
class Batch:
    """Equations with the same exponents: `symbols` has a row for each equation, a column for each factor."""

    symbols: Tensor
    exponents: tuple[int, ...]
    origin: Origin


@record()
class Vector:
    """A run of symbols made together: `size` symbols from `start`, for an axis of a tensor."""

    start: int
    size: int
    origin: Origin


_MANY = 1 << 14  # with more rows than this, looking for repeated ones pays


@dataclass
class System:
    """Symbols made so far and the constraints between them."""

    count: int = 2  # ONE and ANY
    vectors: list[Vector] = field(default_factory=list)
    equations: list[Batch] = field(default_factory=list)
    positive: list[Batch] = field(default_factory=list)
    unit: list[Batch] = field(default_factory=list)
    names: dict[bytes, Tensor] = field(default_factory=dict)  # of products, by their factors

    def fresh(self, shape: Sequence[int], origin: Origin) -> Tensor:
        """New symbols in the given shape."""
        size = math.prod(shape)
        symbols = torch.arange(self.count, self.count + size)
        self.vectors.append(Vector(self.count, size, origin))
        self.count += size
        return symbols if len(shape) == 1 else symbols.view(tuple(shape))

    def named(self, a: CobMap, origin: Origin) -> Tensor:
        """Symbols for a product of factors, one for each position of their broadcast shape.

        The same product has one name: a recurrence that is written out step by step would define one a step.
        """
        key = hashlib.blake2b()
        for symbols, exponent in a.factors:
            key.update(f"{exponent} {tuple(symbols.shape)}".encode())
            key.update(symbols.numpy().tobytes())
        known = self.names.get(key.digest())
        if known is None:
            known = self.fresh(torch.broadcast_shapes(*(s.shape for s, _ in a.factors)), origin)
            self.require_one(CobMap(((known, -1), *a.factors), a.zeros), origin)
            self.names[key.digest()] = known
        return known

    def mark(self) -> tuple[int, ...]:
        """The current lengths, for `undo`."""
        return self.count, len(self.vectors), len(self.equations), len(self.positive), len(self.unit)

    def undo(self, mark: Sequence[int]) -> None:
        """Remove all symbols and constraints that were added since `mark`."""
        self.count, *lengths = mark
        self.names = {key: symbols for key, symbols in self.names.items() if symbols.max() < self.count}
        for held, length in zip((self.vectors, self.equations, self.positive, self.unit), lengths, strict=True):
            del held[length:]  # type: ignore[attr-defined]

    # -- equations -------------------------------------------------------------------------------------

    def same(self, a: CobMap, b: CobMap, origin: Origin) -> None:
        """a = b at every position of their broadcast shape (structural zeros excepted)."""
        if a is b:
            return
        rank = max((s.ndim for s, _ in a.factors + b.factors), default=0)
        ratio = a.aligned(rank) / b.aligned(rank)
        self.require_one(ratio, origin)

    def pin(self, a: CobMap, origin: Origin) -> None:
        """a = 1 at every position."""
        self.require_one(a, origin)

    def constant(self, a: CobMap, axes: Iterable[int], origin: Origin) -> CobMap:
        """Require `a` to be constant along axes; returns it with size 1 there.

        Raises:
            RuleError: an axis that the map does not have. Ignoring it would lose the constraint, and declining the call
                would hide the rule's mistake.
        """
        over = frozenset(axes)
        rank = max((s.ndim for s, _ in a.factors), default=None)
        if rank is not None and not over <= frozenset(range(rank)):
            wrong = sorted(over - frozenset(range(rank)))
            raise RuleError(
                f"the rule of '{origin.node}' requires a map of rank {rank} to be constant along the axes {wrong}"
                f" ({origin.why}), which it does not have: count them from 0, and take negative ones modulo the rank"
            )
        touched = tuple(f for f in a.factors if support(f[0]) & over)
        if not touched:
            return a
        kept = tuple(f for f in a.factors if not support(f[0]) & over)
        if len(touched) == 1 and not a.zeros:
            symbols, exponent = touched[0]
            first = symbols
            for axis in over:
                first = first.narrow(axis, 0, 1)
            self.add([symbols, first], (1, -1), origin)
            return CobMap((*kept, (first, exponent)))
        shape = torch.broadcast_shapes(*(s.shape for s, _ in touched))
        narrow = [1 if i in over else n for i, n in enumerate(shape)]
        if a.zeros:  # a position where everything is zero stays zero
            zero = torch.stack([(s == ANY).expand(shape) for s, _ in touched]).any(0)
            for axis in sorted(over):
                zero = zero.all(axis, keepdim=True)
            rest = torch.full(narrow, ANY)
            rest[~zero] = self.fresh([int((~zero).sum())], origin)
        else:
            rest = self.fresh(narrow, origin)
        self.require_one(CobMap((*touched, (rest, -1)), a.zeros), origin)
        return CobMap((*kept, (rest, 1)), a.zeros)

    def require_one(self, a: CobMap, origin: Origin) -> None:
        """a = 1 at every position.

        A product of factors is 1 on the whole grid if and only if it is 1 on the grid of each factor's own axes,
        with the other axes at their first index (its anchored decomposition has no other terms): the number of
        equations is the sum of the factors' sizes, not their product. Structural zeros cannot be anchors.
        """
        factors = a.factors
        if not factors:
            return
        if a.zeros and any(bool((s == ANY).all()) for s, _ in factors):
            return  # zero everywhere
        symbols, exponents = [s for s, _ in factors], [e for _, e in factors]
        grids = {support(s) for s in symbols}
        if len(grids) == 1 or a.zeros:
            self.add(symbols, exponents, origin)
            return
        for grid in grids:
            if not any(grid < other for other in grids):
                self.add([_anchored(s, grid) for s in symbols], exponents, origin)

    def add(self, symbols: Sequence[Tensor], exponents: Sequence[int], origin: Origin) -> None:
        """prod_k tau[symbols_k] ** exponents_k = 1 over the broadcast shape of the symbols."""
        wide = torch.broadcast_tensors(*symbols) if len(symbols) > 1 else symbols
        if wide[0].numel() > _MANY:
            rows = _distinct(symbols, self.count)
        elif len(wide) == 1:
            rows = wide[0].reshape(-1, 1)
        else:
            rows = torch.stack([s.reshape(-1) for s in wide], 1)
        if not rows.all():  # some symbol is ANY, which is 0
            rows = rows[(rows != ANY).all(1)]
        if rows.numel():
            self.equations.append(Batch(rows, tuple(exponents), origin))

    # -- one-sided -------------------------------------------------------------------------------------

    def require_positive(self, a: CobMap, origin: Origin) -> None:
        """The sign of `a` is pinned; put on every factor, which is sound and simple."""
        self.positive += [Batch(s.reshape(-1, 1), (e,), origin) for s, e in a.factors if e % 2]

    def require_unit(self, a: CobMap, origin: Origin) -> None:
        """The magnitude of `a` is pinned; that of a product by its square, which leaves its factors free."""
        if len(a.factors) > 1:
            self.require_one(a**2, origin)
            return
        self.unit += [Batch(s.reshape(-1, 1), (e,), origin) for s, e in a.factors]


def _distinct(symbols: Sequence[Tensor], count: int) -> Tensor:
    """The different rows of symbols below `count`: a table read at many positions repeats its few symbols.

    Where a row does not fit into one number, a hash of it is sorted by: two rows of one hash may then part equal ones,
    which costs a repetition and no equation.
    """
    if count ** len(symbols) >= 1 << 63:
        hashes = sum((s * factor for s, factor in zip(symbols, _HASHING, strict=False)), start=torch.tensor(0))
        order = hashes.reshape(-1).argsort()  # equal rows come to stand side by side
        rows = torch.stack([s.reshape(-1)[order] for s in torch.broadcast_tensors(*symbols)], 1)
        new = torch.ones(len(rows), dtype=torch.bool)
        torch.any(rows[1:] != rows[:-1], 1, out=new[1:])
        return rows[new]
    digits = [count**k for k in range(len(symbols))]
    first, *more = (s * digit for s, digit in zip(symbols, digits, strict=True))
    for term in more:
        first = first + term
    keys: Tensor = torch.unique(first)
    return torch.stack([keys // digit % count for digit in digits], 1)


# Odd numbers for as many columns as there may be; the products wrap around.
_HASHING = tuple(int(n) | 1 for n in np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 64))


def _anchored(symbols: Tensor, grid: frozenset[int]) -> Tensor:
    """The symbols with every axis outside `grid` at its first index."""
    for axis, n in enumerate(symbols.shape):
        if n > 1 and axis not in grid:
            symbols = symbols.narrow(axis, 0, 1)
    return symbols
