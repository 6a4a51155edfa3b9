"""CoB maps: which unknown scales every element of a tensor.

A *symbol* is an integer that stands for one unknown non-zero number tau[symbol]: `ONE` is pinned to 1, `ANY`
marks a structural zero (padding), which every CoB fits. A factor is an integer tensor of symbols, of the
rank of its tensor and broadcastable to it: an axis along which it is constant has size 1, so memory is
O(neurons). A map is a monomial, the product of factors with integer exponents:

    teleported value = original value * prod_k tau[symbols_k] ** exponent_k        (elementwise)

Products need no new unknowns (`mul` joins the factors, `div` negates exponents), and the scale of a weight,
tau_out / tau_in, is a map like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from fxteleport.passes.domain.size import Extent
from fxteleport.passes.record import record

ANY, ONE = 0, 1  # ANY is 0, so that padding with zeros pads with structural zeros
Factor = tuple[Tensor, int]
Block = tuple[list[int], list[int]]  # axes before and after a reshape
Parts = tuple[Extent, ...]  # of an axis: sizes whose product is its size


@record(eq=False)
class CobMap:
    """The CoB of one tensor: factors (symbols, exponent); no factors is the identity.

    `zeros` is True where a factor may hold `ANY`. `folds` are the axes of unknown size along which it varies, with
    their parts (`folds.py`).
    """

    factors: tuple[Factor, ...] = ()
    zeros: bool = False
    folds: tuple[tuple[int, Parts], ...] = ()

    def __mul__(self, other: CobMap) -> CobMap:
        return CobMap(_cancel(self.factors + other.factors), self.zeros or other.zeros)

    def __truediv__(self, other: CobMap) -> CobMap:
        return self * other**-1

    def __pow__(self, exponent: int) -> CobMap:
        return CobMap(tuple((s, e * exponent) for s, e in self.factors if exponent), self.zeros)

    def each(self, fn: Callable[[Tensor], Tensor]) -> CobMap:
        """The map with `fn` applied to the symbols of every factor."""
        if not self.factors:
            return self
        return CobMap(tuple([(fn(s), e) for s, e in self.factors]), self.zeros)

    def settled(self) -> CobMap:
        """The map with structural zeros given the CoB 1, for operations that do not keep zero."""
        if not self.zeros:
            return self
        return CobMap(tuple((torch.where(s == ANY, ONE, s), e) for s, e in self.factors))

    def aligned(self, rank: int) -> CobMap:
        """The map of the tensor seen with more leading axes (broadcasting)."""
        return self.each(lambda s: s[(None,) * (rank - s.ndim)] if s.ndim < rank else s)

    def trimmed(self, rank: int) -> CobMap:
        """The map without leading axes, along which it does not vary."""
        return self.each(lambda s: s.view(s.shape[s.ndim - rank :]) if s.ndim > rank else s)

    def varies(self, axis: int) -> bool:
        """True if the map may differ along an axis."""
        return max([s.size(axis) for s, _ in self.factors], default=1) > 1

    def scale(self, tau: Tensor) -> Tensor | None:
        """The factor of every element, broadcastable to the tensor; None for the identity."""
        result: Tensor | None = None
        for symbols, exponent in self.factors:
            value = tau[symbols.to(tau.device)]
            value = value if exponent == 1 else value.reciprocal() if exponent == -1 else value**exponent
            result = value if result is None else result * value
        return result


IDENTITY = CobMap()


def single(symbols: Tensor) -> CobMap:
    """The map of one factor."""
    return CobMap(((symbols, 1),))


def structural_zeros(rank: int) -> CobMap:
    """The map of a tensor of zeros."""
    return CobMap(((torch.full((1,) * rank, ANY), 1),), zeros=True)


def _cancel(factors: tuple[Factor, ...]) -> tuple[Factor, ...]:
    """Merge factors that are the same tensor of symbols."""
    if len(factors) < 2:
        return factors
    total: dict[tuple[object, ...], Factor] = {}
    for symbols, exponent in factors:
        key = (symbols.data_ptr(), symbols.shape, symbols.stride())
        total[key] = (symbols, exponent + (total[key][1] if key in total else 0))
    return tuple(f for f in total.values() if f[1])


def support(symbols: Tensor) -> frozenset[int]:
    """The axes along which a factor varies."""
    return frozenset(i for i, n in enumerate(symbols.shape) if n > 1)


def compress(symbols: Tensor) -> Tensor:
    """Give every axis along which the symbols are constant the size 1."""
    for axis in range(symbols.ndim):
        n = symbols.size(axis)
        if n <= 1:
            continue
        first = symbols.narrow(axis, 0, 1)
        if symbols.stride(axis) == 0 or (
            torch.equal(first, symbols.narrow(axis, n - 1, 1)) and bool((symbols == first).all())
        ):
            symbols = first
    big = symbols.untyped_storage().nbytes() > 16 * symbols.numel() + 4096
    return symbols.clone() if big else symbols


def reshape(symbols: Tensor, old: Sequence[int], new: Sequence[int], blocks: Iterable[Block] | None = None) -> Tensor:
    """The factor of a tensor of shape `old` after it is reshaped to `new`, in O(neurons).

    The two shapes are cut into blocks of axes of equal size (those that are given, or the shortest); only blocks along
    which the factor varies are expanded.
    """
    if blocks is None and math.prod(old) == 0:  # never anything in it
        return symbols.new_full((1,) * len(new), ONE)
    wide: list[int] = []
    target: list[int] = []
    for from_axes, to_axes in _blocks(old, new) if blocks is None else blocks:
        if all(symbols.size(i) == 1 for i in from_axes):
            wide += [1] * len(from_axes)
            target += [1] * len(to_axes)
        else:
            wide += [old[i] for i in from_axes]
            target += [new[i] for i in to_axes]
    if math.prod(wide) == 0:
        return symbols.new_full((1,) * len(new), ONE)
    result = symbols.expand(wide).reshape(target)
    return compress(result) if target != list(wide) else result


def _blocks(old: Sequence[int], new: Sequence[int]) -> Iterable[Block]:
    """Cut two shapes of the same size into the shortest runs of axes with equal products."""
    i = j = 0
    while i < len(old) or j < len(new):
        rows: list[int] = []
        columns: list[int] = []
        a = b = 1
        while (not rows and not columns) or a != b:
            if (a <= b and i < len(old)) or j >= len(new):
                a *= old[i]
                rows.append(i)
                i += 1
            else:
                b *= new[j]
                columns.append(j)
                j += 1
        yield rows, columns


def on_symbols(fn: Callable[[Tensor], Tensor], *symbols: Tensor) -> Tensor:
    """Run a movement on integers; where that fails, since some know floating point only, on float64 (below 2**53)."""
    try:
        return fn(*symbols)
    except (RuntimeError, NotImplementedError, TypeError):
        return fn(*(s.double() for s in symbols)).round().long()


def together(cobs: Sequence[CobMap]) -> list[tuple[list[Tensor | None], int]]:
    """The factors of several maps side by side, by exponent: one column a map, None where it has none."""
    slots: list[tuple[list[Tensor | None], int]] = []
    for exponent in sorted({e for c in cobs for _, e in c.factors}, reverse=True):
        columns = [[s for s, e in c.factors if e == exponent] for c in cobs]
        longest = max(map(len, columns))
        slots += [([c[i] if i < len(c) else None for c in columns], exponent) for i in range(longest)]
    return slots
