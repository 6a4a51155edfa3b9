"""Solve: a system of monomial equations -> groups: free symbols, monomials of free ones, pinned ones.

Equations between one or two symbols are a union-find on the signed double cover of the symbols (each symbol
s and its inverse 1/s are two vertices). Longer ones are eliminated in vectorised rounds of sparse row
operations: a symbol with exponent +-1 becomes a monomial of the others. What stays unresolved within the
budget is pinned to 1. No Python loop over symbols; time and memory are linear up to fill-in.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fxteleport.passes.maps import ANY, ONE
from fxteleport.passes.system import Batch, Origin, System

# What a free value may be.
FREE, POSITIVE, UNIT = 0, 1, 2
_ROUNDS, _FILL = 64, 20  # the elimination's budget: rounds, and growth of the equations

_EXPONENT = np.int32  # half the memory of the largest tables

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
        found = [values, values.new_ones(1)]
        if len(self.many):
            powers = torch.from_numpy(self.many_exponent).to(values.device)
            terms = torch.cat(found)[torch.from_numpy(self.many_index).to(values.device)] ** powers
            found.append(terms.prod(1))
        distinct = torch.cat(found)
        return torch.cat([distinct, distinct.reciprocal()])

    @functools.cached_property
    def place(self) -> Tensor:
        """Where each symbol's value is among the `numbers`: int64 [symbols]."""
        place = np.where(self.exponent < 0, self.index + self.half, self.index)
        place[self.many] = np.arange(self.num_free + 1, self.half)
        return torch.from_numpy(place)

    @functools.cached_property
    def lowest(self) -> Array:
        """What free values lie above, float64; nothing does for a unit, so that those are looked at closely."""
        return np.where(self.allows == POSITIVE, 0.0, np.where(self.allows == UNIT, np.inf, -np.inf))

    @property
    def half(self) -> int:
        """How many distinct values there are; the inverses come behind them."""
        return self.num_free + 1 + len(self.many)


def solve(system: System) -> Solution:
    """Reduce the system; see the module's docstring."""
    n = system.count
    pairs, rows = _Pairs(n), _Rows(n)
    for number, batch in enumerate(system.equations):
        _sort_out(batch, number, pairs, rows)
    cover = _Cover(n, pairs)
    # Longer equations collapse as their symbols are pinned or identified.
    matrix, why, definitions = _set_aside(rows.matrix(), rows.numbers(), _constrained(system, pairs))
    del rows  # on the largest networks each of these is tens of megabytes
    while matrix.shape[0]:
        reduced = _reduce(matrix, cover)
        count = np.diff(reduced.indptr)
        ones = np.ones(len(count), bool)
        if reduced.nnz:
            np.logical_and.at(ones, np.repeat(np.arange(len(count)), count), np.abs(reduced.data) == 1)
        small = (count <= 2) & (ones | (count == 1))
        if not small.any():
            matrix, why = _distinct(reduced, why)
            break
        new = _Pairs(n)
        _collapse(reduced, count, why, small, new)
        matrix, why = _distinct(reduced[~small], why[~small])
        del reduced
        if new.empty():
            continue
        pairs.extend(new)
        del cover
        cover = _Cover(n, pairs)
    steps = [_definitions(definitions, cover)] if len(definitions[0]) else []
    del definitions
    return _assemble(system, cover, matrix, why, steps)


class _Pairs:
    """One- and two-symbol equations as edges of the double cover."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.pinned: list[Array] = []
        self.pin_why: list[Array] = []
        self.same: list[Array] = []
        self.inverse: list[Array] = []
        self.unit: list[Array] = []

    def pin(self, symbols: Array, why: Array) -> None:
        self.pinned.append(symbols)
        self.pin_why.append(why)

    def extend(self, other: _Pairs) -> None:
        for name in ("pinned", "pin_why", "same", "inverse", "unit"):
            getattr(self, name).extend(getattr(other, name))

    def empty(self) -> bool:
        return not (self.pinned or self.same or self.inverse or self.unit)


class _Rows:
    """Equations of three and more symbols, as sparse rows."""

    def __init__(self, n: int) -> None:
        self.n, self.height = n, 0
        self.parts: list[tuple[Array, Array, Array]] = []
        self.why: list[Array] = []

    def add(self, symbols: Array, exponents: Array, why: int) -> None:
        height, width = symbols.shape
        at = np.repeat(np.arange(self.height, self.height + height, dtype=np.int32), width)
        self.parts.append((at, symbols.reshape(-1).astype(np.int32), np.tile(exponents.astype(_EXPONENT), height)))
        self.why.append(np.full(height, why))
        self.height += height

    def matrix(self):  # type: ignore[no-untyped-def]
        from scipy.sparse import csr_array

        if not self.parts:
            return csr_array((0, self.n), dtype=_EXPONENT)
        at, symbols, exponents = (np.concatenate(p) for p in zip(*self.parts, strict=True))
        self.parts.clear()
        return csr_array((exponents, (at, symbols)), shape=(self.height, self.n), dtype=_EXPONENT)

    def numbers(self) -> Array:
        return np.concatenate(self.why) if self.why else np.empty(0, np.int64)


def _sort_out(batch: Batch, number: int, pairs: _Pairs, rows: _Rows) -> None:
    """File a batch under one-symbol, two-symbol or longer equations."""
    symbols, exponents = batch.symbols.numpy(), batch.exponents
    why = np.full(len(symbols), number)
    if len(exponents) == 1:
        if abs(exponents[0]) == 1:
            pairs.pin(symbols[:, 0], why)
        else:
            rows.add(symbols, np.array(exponents), number)
    elif len(exponents) == 2 and abs(exponents[0]) == abs(exponents[1]) == 1:
        with_one = (symbols == ONE).any(1)
        if with_one.any():
            pinned = symbols[with_one].max(1)
            pairs.pin(pinned, why[with_one])
            symbols = symbols[~with_one]
        (pairs.same if exponents[0] != exponents[1] else pairs.inverse).append(symbols)
    else:
        rows.add(symbols, np.array(exponents), number)


class _Cover:
    """Components of the signed double cover: each symbol's class, and whether it is the class or its inverse."""

    def __init__(self, n: int, pairs: _Pairs) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        joined = [pairs.same, pairs.inverse]
        same, inverse = (np.concatenate(p) if p else np.empty((0, 2), np.int64) for p in joined)
        a = np.concatenate([same[:, 0], same[:, 0] + n, inverse[:, 0], inverse[:, 0] + n])
        b = np.concatenate([same[:, 1], same[:, 1] + n, inverse[:, 1] + n, inverse[:, 1]])
        _, label = connected_components(
            coo_array((np.ones(len(a), bool), (a, b)), shape=(2 * n, 2 * n)), directed=False
        )
        plus, minus = label[:n], label[n:]
        self.klass = np.minimum(plus, minus)  # vertices of a symbol and of its inverse share the smaller label
        self.sign = np.where(plus <= minus, 1, -1).astype(_EXPONENT)
        self.size = int(label.max()) + 1 if n else 0
        self.unit = np.zeros(self.size, bool)
        self.unit[self.klass[plus == minus]] = True  # s = 1/s: the magnitude is pinned, a sign is not
        for symbols in pairs.unit:
            self.unit[self.klass[symbols]] = True
        self.why = np.full(self.size, -1, np.int64)
        if pairs.pinned:
            symbols, why = np.concatenate(pairs.pinned), np.concatenate(pairs.pin_why)
            self.why[self.klass[symbols[::-1]]] = why[::-1]  # the first reason wins
        self.pinned = self.why >= 0
        self.pinned[self.klass[[ONE, ANY]]] = True


def _constrained(system: System, pairs: _Pairs) -> Array:
    """bool [symbols]: what pairs of symbols, and one-sided constraints, say something about."""
    found = np.zeros(system.count, bool)
    found[[ONE, ANY]] = True
    for symbols in (*pairs.pinned, *pairs.same, *pairs.inverse):
        found[symbols] = True
    for batch in (*system.positive, *system.unit):
        found[batch.symbols.numpy()] = True
    return found


def _set_aside(matrix, why: Array, constrained: Array):  # type: ignore[no-untyped-def]
    """The rows, and apart from them those that only define a symbol which is found nowhere else.

    A weight that is read element by element brings millions of these; nothing is to be eliminated from them.
    Returns the other rows with their reasons, and (defined symbols, rows, why).
    """
    usage = np.bincount(matrix.indices, minlength=matrix.shape[1])
    own = (usage == 1) & ~constrained
    at = np.flatnonzero(own[matrix.indices] & (np.abs(matrix.data) == 1))
    rows, first = np.unique(np.searchsorted(matrix.indptr, at, side="right") - 1, return_index=True)
    others = np.ones(len(why), bool)
    others[rows] = False
    return matrix[others], why[others], (matrix.indices[at[first]], matrix[rows], why[rows])


def _reduce(matrix, cover: _Cover):  # type: ignore[no-untyped-def]
    """Rows over symbols -> rows over one representative symbol a class, without pinned ones."""
    from scipy.sparse import csr_array

    coo = matrix.tocoo()
    klass = cover.klass[coo.col]
    keep = ~cover.pinned[klass]
    first = _representatives(cover)
    data = coo.data * cover.sign[coo.col]
    # A representative carries its own sign: it may be the inverse of its class.
    column = first[klass]
    data = data * cover.sign[column]
    out = csr_array((data[keep], (coo.row[keep], column[keep])), shape=matrix.shape, dtype=_EXPONENT)
    out.sum_duplicates()
    out.eliminate_zeros()
    return _primitive(out)


def _primitive(matrix):  # type: ignore[no-untyped-def]
    """Rows of several symbols without a common exponent: s**2 = t**2 becomes s = t, which gives up a sign only."""
    terms = np.diff(matrix.indptr)
    filled = terms > 0
    if not filled.any() or np.abs(matrix.data).max() == 1:
        return matrix
    common = np.gcd.reduceat(matrix.data, matrix.indptr[:-1][filled])
    common[terms[filled] == 1] = 1  # s**2 = 1 leaves s a sign
    matrix.data //= np.repeat(common, terms[filled])
    return matrix


def _distinct(matrix, why: Array):  # type: ignore[no-untyped-def]
    """The rows without repetitions (told apart by a random 64-bit hash)."""
    key = np.random.default_rng(0).integers(-(2**62), 2**62, matrix.shape[1])
    kept = np.sort(np.unique(matrix @ key, return_index=True)[1])
    return matrix[kept], why[kept]


def _representatives(cover: _Cover) -> Array:
    """The first symbol of each class."""
    first = np.full(cover.size, -1, np.int64)
    first[cover.klass[::-1]] = np.arange(len(cover.klass))[::-1]
    return first


def _collapse(matrix, count: Array, why: Array, small: Array, pairs: _Pairs) -> None:  # type: ignore[no-untyped-def]
    """Turn rows that have shrunk to one or two symbols into edges."""
    one = small & (count == 1)
    at = matrix.indptr[:-1]
    columns, data = matrix.indices, matrix.data
    if one.any():
        symbol, exponent = columns[at[one]], np.abs(data[at[one]])
        odd = exponent % 2 == 1
        if odd.any():
            pairs.pin(symbol[odd], why[one][odd])
        if not odd.all():
            pairs.unit.append(symbol[~odd])  # s ** 2 = 1
    two = small & (count == 2)
    if two.any():
        a, b = columns[at[two]], columns[at[two] + 1]
        equal = data[at[two]] * data[at[two] + 1] < 0
        both = np.stack([a, b], 1)
        for where, edges in ((equal, pairs.same), (~equal, pairs.inverse)):
            if where.any():
                edges.append(both[where])


def _eliminate(matrix, why: Array, bound: Array):  # type: ignore[no-untyped-def]
    """Solve rows for pivots, each in terms of symbols that are pivots of later steps or of none.

    `bound` marks symbols with a one-sided constraint: as pivots they would hand it on to the others.
    Returns the steps [(pivot columns, rows solved for them, why)] and the rows left over.
    """
    steps = []
    budget = _FILL * matrix.nnz + 1000
    random = np.random.default_rng(0)
    for _ in range(_ROUNDS):
        filled = np.diff(matrix.indptr) > 0
        matrix, why = matrix[filled], why[filled]
        height = matrix.shape[0]
        if not height or matrix.nnz > budget:
            break
        row = np.repeat(np.arange(height), np.diff(matrix.indptr))
        usage = np.bincount(matrix.indices, minlength=matrix.shape[1])
        # In each row the candidate is the symbol with exponent +-1 that the fewest rows use.
        cost = usage[matrix.indices] + bound[matrix.indices] * height
        cost = np.where(np.abs(matrix.data) == 1, cost, np.iinfo(np.int64).max)
        order = np.lexsort((matrix.indices, cost, row))
        best = order[np.unique(row[order], return_index=True)[1]]
        able = cost[best] < np.iinfo(np.int64).max
        if not able.any():
            break
        pivot = np.where(able, matrix.indices[best], -1)
        # Of rows that share a candidate the one with the highest priority takes it; rows that would use
        # each other's pivots wait for the next round.
        priority = random.permutation(height) + np.where(able, 0, -height)
        owner = np.full(matrix.shape[1], -height - 1)
        np.maximum.at(owner, matrix.indices, priority[row])
        chosen = able & (owner[pivot] == priority)
        taken = np.zeros(matrix.shape[1], np.int64)
        taken[pivot[chosen]] = 1
        inside = np.zeros(height, np.int64)
        np.add.at(inside, row, taken[matrix.indices])
        chosen &= inside == 1
        solved, rest = matrix[chosen], matrix[~chosen]
        columns, lead = pivot[chosen], matrix.data[best[chosen]]
        solved.data *= np.repeat(lead, np.diff(solved.indptr))  # the pivot's exponent becomes 1
        uses = rest[:, columns]
        if uses.nnz:
            rest = (rest - uses @ solved).tocsr()
            rest.eliminate_zeros()
            rest = _primitive(rest)
        steps.append((columns, solved, why[chosen]))
        matrix, why = rest, why[~chosen]
    return steps, matrix


def _assemble(system: System, cover: _Cover, matrix, why: Array, steps) -> Solution:  # type: ignore[no-untyped-def]
    """Number the free values and write every symbol as a monomial of them.

    `steps` are those of the elimination that come before all others; the list is emptied.
    """
    n = system.count
    origins = [b.origin for b in system.equations]
    unresolved, both_sides = len(origins), len(origins) + 1
    origins += [
        Origin("", "the equations around it could not be resolved"),
        Origin("", "one operation pins its sign, another its magnitude"),
    ]
    first = _representatives(cover)
    sided = [_one_sided_classes(system, cover, flag) for flag in (POSITIVE, UNIT)]
    bound = np.zeros(n, np.int64)
    bound[first[np.concatenate(sided)]] = 1
    later, left = _eliminate(matrix, why, bound)
    steps += later
    del later
    reason = cover.why[cover.klass]
    is_free = np.zeros(n, bool)
    is_free[first[(first >= 0) & ~cover.pinned]] = True
    for step in steps:
        is_free[step[0]] = False
        reason[step[0]] = step[2]  # stands only if the monomial turns out empty
        del step
    if left.nnz:
        stuck = np.unique(left.indices)
        is_free[stuck] = False
        reason[stuck] = unresolved
    free = np.flatnonzero(is_free)
    exponents = _monomials(free, n, steps)
    allows = _one_sided(sided, first, exponents)
    gone = allows == POSITIVE | UNIT
    if gone.any():
        reason[free[gone]] = both_sides
        exponents, allows = exponents[:, ~gone], allows[~gone]
    representative = first[cover.klass]
    per_symbol = exponents[representative].tocsr()
    del exponents
    sign = cover.sign * cover.sign[representative]
    reason = np.where(np.diff(per_symbol.indptr) == 0, reason[representative], -1)
    return _solution(per_symbol, sign, allows, reason, origins)


def _monomials(free: Array, n: int, steps):  # type: ignore[no-untyped-def]
    """Each representative as a monomial of the free ones, filled from the last step of the elimination back."""
    from scipy.sparse import csr_array

    shape = n, len(free)
    exponents = csr_array((np.ones(len(free), _EXPONENT), (free, np.arange(len(free)))), shape=shape)
    while steps:
        columns, solved, _ = steps.pop()
        others = (solved @ exponents).tocoo()  # the pivots' own rows are still empty
        del solved
        exponents = exponents + csr_array((-others.data, (columns[others.row], others.col)), shape=shape)
        exponents.eliminate_zeros()
    return exponents


def _definitions(definitions, cover: _Cover):  # type: ignore[no-untyped-def]
    """Rows that were set aside, as a step of the elimination: no other step uses what they define."""
    columns, rows, why = definitions
    solved = _reduce(rows, cover)
    length = np.diff(solved.indptr)
    solved.data *= np.repeat(solved.data[solved.indices == np.repeat(columns, length)], length)
    return columns, solved, why


def _one_sided_classes(system: System, cover: _Cover, flag: int) -> Array:
    """The classes whose sign (POSITIVE) or magnitude (UNIT) is pinned."""
    batches = system.positive if flag == POSITIVE else system.unit
    found = cover.unit.copy() if flag == UNIT else np.zeros(cover.size, bool)
    for batch in batches:
        found[cover.klass[batch.symbols.numpy()[:, 0]]] = True
    return np.flatnonzero(found & ~cover.pinned)


def _one_sided(sided: list[Array], first: Array, exponents) -> Array:  # type: ignore[no-untyped-def]
    """What each free value may be, from the one-sided classes it appears in."""
    allows = np.zeros(exponents.shape[1], np.int64)
    for flag, classes in zip((POSITIVE, UNIT), sided, strict=True):
        rows = exponents[first[classes]]
        touched = rows.indices[rows.data % 2 == 1] if flag == POSITIVE else rows.indices
        allows[touched] |= flag
    return allows


def _solution(per_symbol, sign: Array, allows: Array, reason: Array, origins: list[Origin]) -> Solution:  # type: ignore[no-untyped-def]
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
