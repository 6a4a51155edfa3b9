"""Size: a number that comes from the sizes of a network's inputs, as a polynomial of unknowns.

An *atom* is one unknown number: the size of an axis of an input, what a strided convolution leaves of it, a number that
depends on the data. A size is an `int` where it is the same on every input, else a `Size`: a polynomial of atoms with
integer coefficients in normal form, so that two sizes that are equal on every input compare equal. Equations that the
graph requires (a linear layer takes a fixed number of features) are learned by `Sizes.insist`.
"""

from __future__ import annotations

import functools
import math
import operator
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

Monomial = tuple[int, ...]  # atoms, sorted, repeated by their power


class Size:
    """A polynomial of atoms: monomials with their coefficients."""

    __slots__ = ("terms",)

    def __init__(self, terms: frozenset[tuple[Monomial, int]]) -> None:
        self.terms = terms

    def __eq__(self, other: object) -> bool:
        return type(other) is Size and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(self.terms)

    def __repr__(self) -> str:
        parts = ["*".join([str(c), *(f"s{a}" for a in atoms)]) for atoms, c in sorted(self.terms)]
        return " + ".join(parts)


Extent = int | Size  # how many: known, or not
_CACHED = 1 << 12  # results in each cache: a deep network repeats its blocks


def _terms(x: Extent) -> Mapping[Monomial, int]:
    return dict(x.terms) if isinstance(x, Size) else {(): x} if x else {}


def _size(terms: Mapping[Monomial, int]) -> Extent:
    held = {atoms: c for atoms, c in terms.items() if c}
    if not held.keys() - {()}:
        return held.get((), 0)
    return Size(frozenset(held.items()))


@functools.lru_cache(_CACHED)
def plus(a: Extent, b: Extent, sign: int = 1) -> Extent:
    """a + sign * b."""
    if type(a) is int and type(b) is int:
        return a + sign * b
    total = dict(_terms(a))
    for atoms, c in _terms(b).items():
        total[atoms] = total.get(atoms, 0) + sign * c
    return _size(total)


@functools.lru_cache(_CACHED)
def times(a: Extent, b: Extent) -> Extent:
    """a * b."""
    if type(a) is int and type(b) is int:
        return a * b
    total: dict[Monomial, int] = {}
    for x, c in _terms(a).items():
        for y, d in _terms(b).items():
            atoms = tuple(sorted(x + y))
            total[atoms] = total.get(atoms, 0) + c * d
    return _size(total)


def product(sizes: Iterable[Extent]) -> Extent:
    """The number of elements of a tensor with axes of these sizes."""
    total: Extent = 1
    for size in sizes:
        total = times(total, size)
    return total


@functools.lru_cache(_CACHED)
def quotient(a: Extent, b: Extent) -> Extent | None:
    """a / b where that is a polynomial, too, by long division; else None."""
    if type(a) is int and type(b) is int:
        return a // b if b and a % b == 0 else None
    rest, divisor = dict(_terms(a)), _terms(b)
    if not divisor:
        return None
    lead = max(divisor, key=_order)
    total: dict[Monomial, int] = {}
    while rest:
        atoms = max(rest, key=_order)
        factor = _without(atoms, lead)
        if factor is None or rest[atoms] % divisor[lead]:
            return None
        total[factor] = rest[atoms] // divisor[lead]
        rest = dict(_terms(plus(_size(rest), times(_size({factor: total[factor]}), b), -1)))
    return _size(total)


def _order(atoms: Monomial) -> tuple[int, Monomial]:
    """An order of monomials that products keep."""
    return len(atoms), tuple(-a for a in atoms)


def _shared(a: Monomial, b: Monomial) -> Monomial:
    """The greatest common divisor of two monomials."""
    return tuple(sorted((Counter(a) & Counter(b)).elements()))


def _without(atoms: Monomial, part: Monomial) -> Monomial | None:
    """The product that is left when a part of its atoms is taken away."""
    rest = list(atoms)
    for atom in part:
        if atom not in rest:
            return None
        rest.remove(atom)
    return tuple(rest)


class Sizes:
    """The atoms of one graph with their values in the example, and the equations that the graph requires."""

    def __init__(self) -> None:
        self.examples: list[Any] = []
        self._named: dict[Hashable, Size] = {}
        self._insisted: dict[Monomial, Extent] = {}
        self._settled: dict[Size, Extent] = {}
        self._open: dict[Size, None] = {}  # sizes that are zero, and cannot be solved for a monomial yet
        self._rests: set[Extent] = set()  # remainders of divisions
        self._floors: dict[Extent, tuple[Extent, Extent]] = {}  # floor(a / b) -> a, b
        self._shares: dict[Extent, tuple[Extent, tuple[Extent, ...]]] = {}  # a / b without remainder -> a, b's axes
        self.learned = 0  # the number of equations that were solved

    def fresh(self, example: Any) -> Size:
        """A new atom, with its value in the example."""
        self.examples.append(example)
        return Size(frozenset({((len(self.examples) - 1,), 1)}))

    def named(self, key: Hashable, example: Any) -> Size:
        """A number that is a function of others: the same key is the same number."""
        if key not in self._named:
            self._named[key] = self.fresh(example)
        return self._named[key]

    def value(self, size: Any, atoms: Mapping[int, int] | None = None) -> Any:
        """What a size is in the example, or where atoms have other values."""
        if not isinstance(size, Size):
            return size
        table = self.examples if atoms is None else atoms
        return sum(c * math.prod(table[a] for a in held) for held, c in size.terms)

    def insist(self, a: Extent, b: Extent) -> None:
        """Learn that a = b, since the graph does not run otherwise: one monomial is solved for.

        An equation that cannot be solved yet is tried again whenever another one is learned.
        """
        if a == b:
            return
        zero = self.settled(plus(a, b, -1))
        terms = dict(_terms(zero))
        common = functools.reduce(_shared, terms, max(terms, key=len, default=()))
        terms = {_without(atoms, common) or (): c for atoms, c in terms.items()}
        leads = [m for m, c in terms.items() if m and all(other % c == 0 for other in terms.values())]
        if leads and len(terms) < 3:
            lead = max(leads, key=lambda m: (max(m), m))  # newer atoms are expressed by older ones
            coefficient = terms.pop(lead)
            self._insisted[lead] = _size({atoms: -c // coefficient for atoms, c in terms.items()})
            self._settled.clear()
            self.learned += 1
            for held in [m for m in self._insisted if m != lead and _without(m, lead) is not None]:
                self.insist(_size({held: 1}), self._insisted.pop(held))
            waiting, self._open = self._open, {}
            for other in waiting:
                self.insist(other, 0)
        elif type(zero) is Size:
            self._open[zero] = None

    def settled(self, size: Any) -> Any:
        """The size with the learned equations substituted."""
        if type(size) is not Size or not self._insisted:
            return size
        if size not in self._settled:
            self._settled[size] = self._put_in(size)
        return self._settled[size]

    def _put_in(self, size: Extent) -> Extent:
        for part, value in self._insisted.items():
            held: Extent = 0
            for atoms, c in _terms(size).items():
                term: Extent = c
                while (rest := _without(atoms, part)) is not None:
                    atoms, term = rest, times(term, value)
                held = plus(held, times(_size({atoms: 1}), term))
            size = held
            if type(size) is int:
                break
        return size

    def apply(self, fn: Callable[..., Any], args: tuple[Any, ...], example: Any) -> Any:
        """What a function of numbers gives."""
        if not any(isinstance(x, Size) for x in args):
            return example
        if len(args) == 2 and all(type(x) in (int, Size) for x in args):
            a, b = args
            if fn in _POLYNOMIAL:
                return _POLYNOMIAL[fn](a, b)
            if fn is operator.floordiv and b != 0 and (exact := quotient(a, b)) is not None:
                return exact
            if fn in _FLOORED and type(b) is int and b > 0:
                return self._floored(a, b, fn is operator.mod)
            if fn is operator.floordiv:
                self._floors[self.named((fn, args), example)] = a, b
        return self.named((fn, args), example)

    def share(self, count: Extent, others: Sequence[Extent], example: int) -> Extent:
        """The size that -1 stands for in a reshape of `count` elements beside other axes."""
        rest = product(others)
        fraction = quotient(count, rest)
        if fraction is not None or Size not in map(type, (count, rest)):
            return example if fraction is None else fraction
        share = self.named(("share", count, rest), example)
        self._shares[share] = count, tuple(others)
        self.insist(count, times(rest, share))
        return share

    def meet(self, size: Extent, known: int) -> None:
        """Learn from axes that are broadcast together: a size that cannot be 1 equals the known one.

        A share cannot, if there are more elements than there may be in the other axes: two of which may be
        floor(n / c) and c, which are n together at most.
        """
        count, others = self._shares.get(size, (0, ()))
        for floor in self._floors.keys() & set(others):
            n, c = self._floors[floor]
            beside = list(others)
            beside.remove(floor)
            rest = quotient(product(beside), c)
            least = quotient(count, times(n, rest)) if type(rest) is int else None
            if type(least) is int and least > 1:
                self.insist(size, known)

    def _floored(self, size: Extent, divisor: int, rest: bool) -> Extent:
        """size // divisor or, with `rest`, size % divisor: multiples of the divisor are taken out, the rest is an atom.

        So (8 - h % 8) % 8, with which h is padded to a multiple of 8, is 8 * q - h.
        """
        below = (divisor - 1) // 2
        inner = {m: (c + below) % divisor - below if m else c % divisor for m, c in _terms(size).items()}
        outer = _size({m: (c - inner[m]) // divisor for m, c in _terms(size).items()})
        left = _size(inner)
        floor = self.value(left) // divisor
        count = plus(outer, floor if type(left) is int else self.named((operator.floordiv, (left, divisor)), floor))
        if not rest:
            return count
        remainder = plus(size, times(count, divisor), -1)
        self._rests.add(remainder)
        return remainder

    def is_rest(self, size: Any) -> bool:
        """True for a remainder, which is not negative."""
        return size in self._rests


_FLOORED = (operator.floordiv, operator.mod)
_POLYNOMIAL: dict[Any, Callable[[Extent, Extent], Extent]] = {
    operator.add: plus,
    operator.sub: lambda a, b: plus(a, b, -1),
    operator.mul: times,
}


@functools.lru_cache(_CACHED)
def cuts(old: tuple[Extent, ...], new: tuple[Extent, ...]) -> list[tuple[list[int], list[int]]]:
    """Two shapes of one tensor, cut into the shortest runs of axes whose products are equal on every input."""
    before, after = _products(old), _products(new)
    behind, ahead = _products(old[::-1])[::-1], _products(new[::-1])[::-1]
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        end = next(
            (k, n)
            for total in range(1, len(old) - i + len(new) - j + 1)
            for k, n in ((i + step, j + total - step) for step in range(total + 1))
            if k <= len(old) and n <= len(new) and (before[k] == after[n] or behind[k] == ahead[n])
        )
        runs.append((list(range(i, end[0])), list(range(j, end[1]))))
        i, j = end
    return runs


def _products(sizes: Sequence[Extent]) -> list[Extent]:
    """The products of the first 0, 1, 2... sizes."""
    totals: list[Extent] = [1]
    for size in sizes:
        totals.append(times(totals[-1], size))
    return totals
