"""Cover: equations of one and two symbols, as a union-find on the signed double cover of the symbols.

Each symbol s and its inverse 1/s are two vertices; s = t joins s with t, and s t = 1 joins s with 1/t. The components
are the classes of symbols that are equal, or inverse, to each other.
"""

from __future__ import annotations

import numpy as np

from fxteleport.passes.domain.cob_map import ANY, ONE
from fxteleport.passes.domain.solution import Array
from fxteleport.passes.solve.elimination import EXPONENT, row_starts


class Pairs:
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

    def extend(self, other: Pairs) -> None:
        for name in ("pinned", "pin_why", "same", "inverse", "unit"):
            getattr(self, name).extend(getattr(other, name))

    def empty(self) -> bool:
        return not (self.pinned or self.same or self.inverse or self.unit)


class Cover:
    """Components of the signed double cover: each symbol's class, and whether it is the class or its inverse."""

    def __init__(self, n: int, pairs: Pairs) -> None:
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
        self.sign = np.where(plus <= minus, 1, -1).astype(EXPONENT)
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


def representatives(cover: Cover) -> Array:
    """The first symbol of each class."""
    first = np.full(cover.size, -1, np.int64)
    first[cover.klass[::-1]] = np.arange(len(cover.klass))[::-1]
    return first


def reduced_by(matrix, cover: Cover):  # type: ignore[no-untyped-def]
    """Rows over symbols -> rows over one representative symbol a class, without pinned ones and squares of signs."""
    from scipy.sparse import csr_array

    klass = cover.klass[matrix.indices]
    keep = ~cover.pinned[klass]
    # A representative carries its own sign: it may be the inverse of its class.
    column = representatives(cover)[klass[keep]]
    data = matrix.data[keep] * (cover.sign[matrix.indices[keep]] * cover.sign[column])
    starts = row_starts(keep)[matrix.indptr]
    out = csr_array((data, column, starts), shape=matrix.shape)
    out.sum_duplicates()
    signs = cover.unit[cover.klass[out.indices]]  # of a sign every second power is 1
    out.data[signs] %= 2
    out.eliminate_zeros()
    return out


def collapse(matrix, count: Array, why: Array, small: Array, pairs: Pairs) -> None:  # type: ignore[no-untyped-def]
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
