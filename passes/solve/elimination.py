"""Rows: equations of three and more symbols, as sparse rows of exponents, and their elimination."""

from __future__ import annotations

import numpy as np

from fxteleport.passes.domain.solution import Array

EXPONENT = np.int32  # half the memory of the largest tables
_WIDE = np.iinfo(np.int32).max
_NEVER = np.iinfo(np.int64).max
_ROUNDS, _FILL = 64, 20  # the elimination's budget: rounds, and growth of the equations


class Rows:
    """Equations of three and more symbols, as sparse rows."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.parts: list[tuple[Array, Array, Array]] = []
        self.why: list[Array] = []

    def add(self, symbols: Array, exponents: Array, why: int) -> None:
        height, width = symbols.shape
        self.parts.append(
            (np.full(height, width), symbols.reshape(-1).astype(np.int32), np.tile(exponents.astype(EXPONENT), height))
        )
        self.why.append(np.full(height, why))

    def matrix(self):  # type: ignore[no-untyped-def]
        from scipy.sparse import csr_array

        if not self.parts:
            return csr_array((0, self.n), dtype=EXPONENT)
        widths, symbols, exponents = (np.concatenate(p) for p in zip(*self.parts, strict=True))
        self.parts.clear()
        made = csr_array((exponents, symbols, row_starts(widths)), shape=(len(widths), self.n))
        made.sum_duplicates()
        return made

    def numbers(self) -> Array:
        return np.concatenate(self.why) if self.why else np.empty(0, np.int64)


def row_starts(counts: Array) -> Array:
    """Where each row begins, and the last one ends, of rows with so many entries."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts.astype(np.int32) if starts[-1] < _WIDE else starts


def set_aside(matrix, why: Array, constrained: Array):  # type: ignore[no-untyped-def]
    """Separate the rows that only define a symbol which no other equation uses.

    A weight that is read element by element brings millions of these, and they need no elimination.

    Returns:
        the other rows with their reasons, and (defined symbols, rows, why).
    """
    if not len(why):
        return matrix, why, (np.empty(0, np.int32), matrix, why)
    usage = np.bincount(matrix.indices, minlength=matrix.shape[1])
    own = (usage == 1) & ~constrained
    at = np.flatnonzero(own[matrix.indices] & (np.abs(matrix.data) == 1))
    rows, first = np.unique(np.searchsorted(matrix.indptr, at, side="right") - 1, return_index=True)
    others = np.ones(len(why), bool)
    others[rows] = False
    return matrix[others], why[others], (matrix.indices[at[first]], matrix[rows], why[rows])


def primitive(matrix):  # type: ignore[no-untyped-def]
    """Divide each row of several symbols by its common exponent: s**2 = t**2 becomes s = t, which gives up a sign."""
    terms = np.diff(matrix.indptr)
    filled = terms > 0
    if not filled.any() or np.abs(matrix.data).max() == 1:
        return matrix
    common = np.gcd.reduceat(matrix.data, matrix.indptr[:-1][filled])
    common[terms[filled] == 1] = 1  # s**2 = 1 leaves s a sign
    matrix.data //= np.repeat(common, terms[filled])
    return matrix


def distinct(matrix, why: Array):  # type: ignore[no-untyped-def]
    """The rows without repetitions (compared by a random 64-bit hash)."""
    key = np.random.default_rng(0).integers(-(2**62), 2**62, matrix.shape[1])
    kept = np.sort(np.unique(matrix @ key, return_index=True)[1])
    return matrix[kept], why[kept]


def eliminate(matrix, why: Array, bound: Array):  # type: ignore[no-untyped-def]
    """Solve rows for pivots, each in terms of symbols that are pivots of later steps or of none.

    `bound` marks symbols with a one-sided constraint: as pivots they would pass it on to the others.

    Returns:
        the steps [(pivot columns, rows solved for them, why)] and the rows left over.
    """
    steps = []
    budget = _FILL * matrix.nnz + 1000
    random = np.random.default_rng(0)
    for _ in range(_ROUNDS if matrix.nnz else 0):
        filled = np.diff(matrix.indptr) > 0
        matrix, why = matrix[filled], why[filled]
        height = matrix.shape[0]
        if not height or matrix.nnz > budget:
            break
        length, starts = np.diff(matrix.indptr), matrix.indptr[:-1]
        usage = np.bincount(matrix.indices, minlength=matrix.shape[1])
        # In each row the candidate is the symbol with exponent +-1 that the fewest rows use; of several, the first.
        cost = usage[matrix.indices] + bound[matrix.indices] * height
        cost = np.where(np.abs(matrix.data) == 1, cost, _NEVER)
        rank = np.minimum(cost, 2 * height + 1) * matrix.shape[1] + matrix.indices
        best = np.flatnonzero(rank == np.repeat(np.minimum.reduceat(rank, starts), length))
        able = cost[best] < _NEVER
        if not able.any():
            break
        pivot = np.where(able, matrix.indices[best], -1)
        # Of rows that share a candidate the one with the highest priority takes it; rows that would use
        # each other's pivots wait for the next round.
        priority = random.permutation(height) + np.where(able, 0, -height)
        owner = np.full(matrix.shape[1], -height - 1)
        np.maximum.at(owner, matrix.indices, np.repeat(priority, length))
        chosen = able & (owner[pivot] == priority)
        taken = np.zeros(matrix.shape[1], np.int64)
        taken[pivot[chosen]] = 1
        chosen &= np.add.reduceat(taken[matrix.indices], starts) == 1
        solved, rest = matrix[chosen], matrix[~chosen]
        columns, lead = pivot[chosen], matrix.data[best[chosen]]
        solved.data *= np.repeat(lead, np.diff(solved.indptr))  # the pivot's exponent becomes 1
        uses = rest[:, columns]
        if uses.nnz:
            rest = (rest - uses @ solved).tocsr()
            rest.eliminate_zeros()
            rest = primitive(rest)
        steps.append((columns, solved, why[chosen]))
        matrix, why = rest, why[~chosen]
    return steps, matrix


def monomials(free: Array, n: int, steps):  # type: ignore[no-untyped-def]
    """Each representative as a monomial of the free ones, filled from the last step of the elimination back."""
    from scipy.sparse import csr_array

    shape = n, len(free)
    exponents = csr_array((np.ones(len(free), EXPONENT), (free, np.arange(len(free)))), shape=shape)
    while steps:
        columns, solved, _ = steps.pop()
        others = (solved @ exponents).tocoo()  # the pivots' own rows are still empty
        del solved
        exponents = exponents + csr_array((-others.data, (columns[others.row], others.col)), shape=shape)
        exponents.eliminate_zeros()
    return exponents
