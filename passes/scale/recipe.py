"""Scale tensors in place by their CoB maps: one pass over memory, and no factor of a weight's own size.

A weight is viewed as a matrix. Its factor is that of its rows times that of its columns: both are small vectors, and
looked up for all tensors at once. With numba, a compiled kernel multiplies by both in one pass
(`row_column_scaling.py`); without it, blocks of rows are scaled by the one and then the other while they are in the
processor's cache.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fxteleport.passes.domain.cob_map import ONE, CobMap
from fxteleport.passes.scale.row_column_scaling import CPU, Factor, Fused, look_up, matrix

_BLOCK = 1 << 20  # bytes scaled at a time: a block, or its float32 copy, stays in the cache between passes
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Recipe:
    """How to scale a set of tensors, for any CoB of a plan.

    Attributes:
        rounds: int64 indices into the table of numbers, for all factors of all tensors, one after another. A factor
            that is a product of k numbers has indices in the first k rounds; factors are sorted by k, so a later round
            covers the first of them.
        sizes: the length of each factor.
        factors: tensor name -> the position in `sizes` and the shape (broadcastable to the tensor) of each factor; that
            of the rows comes first, so that a part of a tensor is rounded as in the whole tensor.
    """

    rounds: list[Tensor]
    sizes: list[int]
    factors: dict[str, list[tuple[int, tuple[int, ...]]]]

    @torch.no_grad()
    def scale_(self, tensors: Mapping[str, Tensor], numbers: Tensor) -> None:
        """Multiply tensors by their factors in place; `numbers` is float64, its second half inverts the first."""
        self.prepare(tensors).scale_(numbers)

    def part(self, positions: Mapping[str, Sequence[Tensor]]) -> Recipe:
        """The recipe for parts of some tensors (shards, or runs of rows), and for no others.

        Args:
            positions: tensor name -> for each of the first axes, which of the tensor's positions the part has; it has
                all positions of the other axes.
        """
        starts = self._starts
        pieces: list[tuple[int, str, Tensor]] = []  # index of the factor, name of the tensor, indices in the table
        for name in positions:
            for at, shape in self.factors.get(name, ()):
                numbers = torch.arange(starts[at], starts[at + 1]).view(shape)
                for axis, there in enumerate(positions[name]):
                    if shape[axis] > 1:
                        numbers = numbers.index_select(axis, there)
                pieces.append((at, name, numbers))
        order = sorted(range(len(pieces)), key=lambda i: pieces[i][0])  # factors with the most rounds first, as before
        rank = {i: at for at, i in enumerate(order)}
        factors: dict[str, list[tuple[int, tuple[int, ...]]]] = {}
        for i, (_, name, numbers) in enumerate(pieces):
            factors.setdefault(name, []).append((rank[i], tuple(numbers.shape)))
        pieces = [pieces[i] for i in order]
        rounds = []
        for indices in self.rounds:
            reached = [numbers.reshape(-1) for at, _, numbers in pieces if starts[at] < len(indices)]
            rounds.append(indices[torch.cat(reached)] if reached else indices[:0])
        return Recipe(rounds, [numbers.numel() for *_, numbers in pieces], factors)

    @functools.cached_property
    def _starts(self) -> list[int]:
        """The index at which each factor begins."""
        return [0, *itertools.accumulate(self.sizes)]

    def prepare(self, tensors: Mapping[str, Tensor]) -> Prepared:
        """All that does not depend on the numbers: cache it for tensors that are scaled repeatedly."""
        groups: dict[tuple[torch.dtype, torch.device], Group] = {}
        for name, tensor in tensors.items():
            if name not in self.factors or not tensor.numel():
                continue
            key = (tensor.dtype, tensor.device)
            group = groups.get(key)
            if group is None:
                numbers = torch.empty(len(self.rounds[0]), dtype=_number_type(key[0]), device=key[1])
                rounds = [r.to(key[1]) for r in self.rounds]
                group = groups[key] = Group(rounds, Fused(numbers))
            group.add(tensor, [(self._starts[at], shape) for at, shape in self.factors[name]])
        return Prepared(list(groups.values()), frozenset(dtype for dtype, _ in groups))


@dataclass
class Group:
    """Tensors of one dtype on one device: matrices, and blocks of other tensors with views of their factors.

    Half precision with several factors is scaled in float32, so that only the result is rounded.
    """

    rounds: list[Tensor]
    fused: Fused
    blocks: list[Tensor] = field(default_factory=list)
    factors: list[Tensor] = field(default_factory=list)
    half: list[tuple[Tensor, list[Tensor]]] = field(default_factory=list)

    def add(self, tensor: Tensor, factors: Sequence[Factor]) -> None:
        """Add a tensor with its factors."""
        product = matrix(tensor, factors)
        if product is not None:
            self.fused.add(product)
            return
        views = [self.fused.numbers.narrow(0, start, math.prod(shape)).view(shape) for start, shape in factors]
        for block, *pieces in _blocks(tensor, views):
            if len(pieces) > 1 and tensor.dtype in _HALF:
                self.half.append((block, pieces))
                continue
            for piece in pieces:
                pair = _flat(block, piece)
                self.blocks.append(pair[0])
                self.factors.append(pair[1])


@dataclass(frozen=True)
class Prepared:
    """Blocks of tensors, and views of the factors that they are multiplied by, whose values are set by `look_up`."""

    groups: list[Group]
    dtypes: frozenset[torch.dtype]

    @property
    def device(self) -> torch.device:
        """The device for the table of numbers: that of all tensors, or the CPU."""
        devices = {group.fused.numbers.device for group in self.groups}
        return devices.pop() if len(devices) == 1 else CPU

    def scale_(self, numbers: Tensor) -> None:
        """Look the numbers up and multiply."""
        self.look_up(numbers)
        self.multiply_()

    def look_up(self, numbers: Tensor) -> None:
        """Set the values of all factors; no tensor is scaled yet."""
        for group in self.groups:
            look_up(numbers, group.rounds, group.fused.numbers)

    @torch.no_grad()
    def multiply_(self) -> None:
        """Multiply all tensors by their factors in place."""
        for group in self.groups:
            group.fused.scale_()
            if group.blocks:
                torch._foreach_mul_(group.blocks, group.factors)  # in turn, without the cost of as many calls
            for block, pieces in group.half:
                block.copy_(math.prod(pieces, start=block.float()))


def recipe(maps: Mapping[str, CobMap], shapes: Mapping[str, Sequence[int]], place: Tensor, half: int) -> Recipe:
    """The recipe for tensors with these maps and shapes.

    Args:
        place: each symbol's index in the table of numbers; an index below `half` has its inverse `half` further on.
    """
    terms: dict[tuple[str, tuple[int, ...]], list[tuple[Tensor, bool]]] = {}  # symbols, and whether inverse
    for name, cob in maps.items():
        factors_of_one = [(s, e) for s, e in cob.factors if s.numel() != 1 or int(s) != ONE]
        length = max((_rows(s.shape, shapes[name]) for s, _ in factors_of_one), default=0)
        for symbols, exponent in factors_of_one:
            if symbols.ndim and symbols.shape[0] == 1:  # a row: full length, so that the inner loop is long
                symbols = symbols.expand(1, *shapes[name][1:])
            elif 0 < _rows(symbols.shape, shapes[name]) < length:  # another factor has more axes of the rows
                symbols = symbols.expand(*shapes[name][:length], *symbols.shape[length:])
            several = [(symbols.reshape(-1), exponent < 0)] * abs(exponent)
            terms.setdefault((name, tuple(symbols.shape)), []).extend(several)
    longest_first = sorted(terms.items(), key=lambda item: -len(item[1]))
    rounds: list[list[tuple[Tensor, bool]]] = [[]]
    factors: dict[str, list[tuple[int, tuple[int, ...]]]] = {}
    for at, ((name, shape), several) in enumerate(longest_first):
        factors.setdefault(name, []).append((at, shape))
        rounds += [[] for _ in several[len(rounds) :]]
        for i, one in enumerate(several):
            rounds[i].append(one)
    for of_one in factors.values():
        of_one.sort(key=lambda factor: factor[1][:1] == (1,))
    sizes = [several[0][0].numel() for _, several in longest_first]
    return Recipe([_indices(r, place, half) for r in rounds], sizes, factors)


def _rows(factor: Sequence[int], shape: Sequence[int]) -> int:
    """How many of a tensor's first axes a factor has, if it has those and no others; else 0."""
    axes = len(factor)
    while axes and factor[axes - 1] == 1:
        axes -= 1
    return axes if tuple(factor[:axes]) == tuple(shape[:axes]) else 0


def _indices(several: Sequence[tuple[Tensor, bool]], place: Tensor, half: int) -> Tensor:
    """The indices, in the table of numbers, of runs of symbols or of their inverses: all in one look-up."""
    if not several:
        return place[:0]
    there = place.index_select(0, torch.cat([symbols for symbols, _ in several]))
    steps = np.repeat([half * inverse for _, inverse in several], [symbols.numel() for symbols, _ in several])
    return there.add_(torch.from_numpy(steps)).remainder_(2 * half)


def _blocks(tensor: Tensor, factors: list[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Runs of rows that fit a cache, each with its part of every factor."""
    size = tensor.numel() * tensor.element_size()
    if size <= _BLOCK or (len(factors) < 2 and tensor.dtype not in _HALF):
        yield tensor, *factors
        return
    rows = max(1, _BLOCK * len(tensor) // size)
    columns = [f.split(rows) if len(f) > 1 else itertools.repeat(f) for f in factors]
    yield from zip(tensor.split(rows), *columns, strict=False)


def _flat(block: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """A block and its factor as matrices, where memory allows: short inner axes are slow to broadcast over."""
    whole_row = block.ndim > 2 and (factor.numel() == len(factor) or factor.shape[0] == 1)
    if whole_row and block.is_contiguous():
        return block.view(len(block), -1), factor.reshape(len(factor), -1)
    return block, factor


def _number_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
