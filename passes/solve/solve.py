"""Solve: a system of monomial equations -> groups: free symbols, monomials of free ones, pinned ones.

Equations between one or two symbols are a union-find on the signed double cover of the symbols (each symbol
s and its inverse 1/s are two vertices). Longer ones are eliminated in vectorised rounds of sparse row
operations: a symbol with exponent +-1 becomes a monomial of the others. What stays unresolved within the
budget is pinned to 1. No Python loop over symbols; time and memory are linear up to fill-in.
"""

from __future__ import annotations

import numpy as np

from fxteleport.passes.domain.cob_map import ANY, ONE
from fxteleport.passes.domain.constraints import Batch, Origin, System
from fxteleport.passes.domain.solution import POSITIVE, UNIT, Array, Solution, packed
from fxteleport.passes.solve.elimination import Rows, distinct, eliminate, monomials, primitive, set_aside
from fxteleport.passes.solve.union_find import Cover, Pairs, collapse, reduced_by, representatives


def solve(system: System) -> Solution:
    """Reduce the system; see the module's docstring."""
    n = system.count
    pairs, rows = Pairs(n), Rows(n)
    for number, batch in enumerate(system.equations):
        _sort_out(batch, number, pairs, rows)
    pairs.unit += [batch.symbols.numpy()[:, 0] for batch in system.unit]
    cover = Cover(n, pairs)
    # Longer equations collapse as their symbols are pinned or identified.
    matrix, why, definitions = set_aside(rows.matrix(), rows.numbers(), _constrained(system, pairs))
    del rows  # on the largest networks each of these is tens of megabytes
    while matrix.shape[0]:
        reduced = reduced_by(matrix, cover)
        count, small = _small(reduced)
        if not small.any():  # now common exponents are divided away: before, s**2 t**2 = 1 may lose its t
            reduced = primitive(reduced)
            count, small = _small(reduced)
        if not small.any():
            matrix, why = distinct(reduced, why)
            break
        new = Pairs(n)
        collapse(reduced, count, why, small, new)
        matrix, why = distinct(reduced[~small], why[~small])
        del reduced
        if new.empty():
            continue
        pairs.extend(new)
        del cover
        cover = Cover(n, pairs)
    steps = [_definitions(definitions, cover)] if len(definitions[0]) else []
    del definitions
    return _assemble(system, cover, matrix, why, steps)


def _small(matrix) -> tuple[Array, Array]:  # type: ignore[no-untyped-def]
    """How many symbols each row has, and whether it is an equation of one, or of two with exponents +-1."""
    count = np.diff(matrix.indptr)
    ones = np.ones(len(count), bool)
    filled = count > 0
    if matrix.nnz:
        ones[filled] = np.logical_and.reduceat(np.abs(matrix.data) == 1, matrix.indptr[:-1][filled])
    return count, (count <= 2) & (ones | (count == 1))


def _sort_out(batch: Batch, number: int, pairs: Pairs, rows: Rows) -> None:
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


def _constrained(system: System, pairs: Pairs) -> Array:
    """bool [symbols]: which symbols occur in an equation of one or two symbols, or in a one-sided constraint."""
    mask = np.zeros(system.count, bool)
    mask[[ONE, ANY]] = True
    for symbols in (*pairs.pinned, *pairs.same, *pairs.inverse):
        mask[symbols] = True
    for batch in (*system.positive, *system.unit):
        mask[batch.symbols.numpy()] = True
    return mask


def _assemble(system: System, cover: Cover, matrix, why: Array, steps) -> Solution:  # type: ignore[no-untyped-def]
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
    first = representatives(cover)
    sided = [_one_sided_classes(system, cover, flag) for flag in (POSITIVE, UNIT)]
    bound = np.zeros(n, np.int64)
    bound[first[np.concatenate(sided)]] = 1
    later, left = eliminate(matrix, why, bound)
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
    exponents = monomials(free, n, steps)
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
    return packed(per_symbol, sign, allows, reason, origins)


def _definitions(definitions, cover: Cover):  # type: ignore[no-untyped-def]
    """The rows that were set aside, as a step of the elimination: no other step uses the symbols that they define."""
    columns, rows, why = definitions
    solved = reduced_by(rows, cover)
    length = np.diff(solved.indptr)
    solved.data *= np.repeat(solved.data[solved.indices == np.repeat(columns, length)], length)
    return columns, solved, why


def _one_sided_classes(system: System, cover: Cover, flag: int) -> Array:
    """The classes whose sign (POSITIVE) or magnitude (UNIT) is pinned."""
    batches = system.positive if flag == POSITIVE else system.unit
    mask = cover.unit.copy() if flag == UNIT else np.zeros(cover.size, bool)
    for batch in batches:
        mask[cover.klass[batch.symbols.numpy()[:, 0]]] = True
    return np.flatnonzero(mask & ~cover.pinned)


def _one_sided(sided: list[Array], first: Array, exponents) -> Array:  # type: ignore[no-untyped-def]
    """What each free value may be, from the one-sided classes it appears in."""
    allows = np.zeros(exponents.shape[1], np.int64)
    for flag, classes in zip((POSITIVE, UNIT), sided, strict=True):
        if not len(classes):
            continue
        rows = exponents[first[classes]]
        touched = rows.indices[rows.data % 2 == 1] if flag == POSITIVE else rows.indices
        allows[touched] |= flag
    return allows
