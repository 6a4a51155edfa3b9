"""Scale tensors in place by their CoB maps: one pass over memory, and no factor of a weight's own size.

A weight is seen as a matrix of rows. Its factor is that of the rows (a column) times that of what is in a row (a
vector): both are small. All of them are looked up at once; then blocks of rows are scaled by one and by the other
while they are in the processor's cache.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxteleport.passes.maps import ONE, CobMap

_BLOCK = 1 << 22  # bytes of a weight scaled at a time: it stays in the cache between the two passes
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Recipe:
    """How to scale a set of tensors, for any tau: made once for a plan.

    Attributes:
        symbols: int64: the symbols of every factor of every tensor, one after another.
        inverse: bool, as long: where tau is divided by.
        sizes: the length of each factor.
        factors: tensor name -> the position in `sizes` and the shape (broadcastable to the tensor) of each factor.
    """

    symbols: Tensor
    inverse: Tensor
    sizes: list[int]
    factors: dict[str, list[tuple[int, tuple[int, ...]]]]

    @torch.no_grad()
    def scale_(self, tensors: Mapping[str, Tensor], tau: Tensor) -> None:
        """Multiply tensors by their factors in place; tau is float64 [symbols].

        Half precision is scaled in float32, so that only the result is rounded.
        """
        numbers = tau.take(self.symbols.to(tau.device))
        numbers = torch.where(self.inverse.to(tau.device), numbers.reciprocal(), numbers)
        ready: dict[tuple[torch.dtype, torch.device], Sequence[Tensor]] = {}
        blocks: list[Tensor] = []
        scales: list[Tensor] = []
        for name, tensor in tensors.items():
            if name not in self.factors:
                continue
            key = (_number_type(tensor.dtype), tensor.device)
            if key not in ready:
                ready[key] = numbers.to(dtype=key[0], device=key[1]).split(self.sizes)
            merged: dict[tuple[int, ...], Tensor] = {}
            for at, shape in self.factors[name]:
                piece = ready[key][at].view(shape)
                merged[shape] = merged[shape] * piece if shape in merged else piece
            own = list(merged.values())
            if len(own) > 1 and tensor.dtype in _HALF:
                for block, *pieces in _blocks(tensor, own):
                    block.copy_(math.prod(pieces, start=block.float()))
                continue
            for block, *pieces in _blocks(tensor, own):
                for piece in pieces:
                    pair = _flat(block, piece)
                    blocks.append(pair[0])
                    scales.append(pair[1])
        if blocks and all(b.is_cpu for b in blocks):
            torch._foreach_mul_(blocks, scales)  # one after another, without the cost of as many calls
        else:
            for block, piece in zip(blocks, scales, strict=True):
                block.mul_(piece)


def recipe(maps: Mapping[str, CobMap], shapes: Mapping[str, Sequence[int]]) -> Recipe:
    """The recipe for tensors with these maps and shapes."""
    symbols: list[Tensor] = []
    inverse: list[Tensor] = []
    factors: dict[str, list[tuple[int, tuple[int, ...]]]] = {}
    for name, cob in maps.items():
        for factor, exponent in cob.factors:
            if factor.numel() == 1 and int(factor) == ONE:
                continue
            if factor.ndim and factor.shape[0] == 1:  # a row: full length, so that the inner loop is long
                factor = factor.expand(1, *shapes[name][1:])
            for _ in range(abs(exponent)):
                factors.setdefault(name, []).append((len(symbols), tuple(factor.shape)))
                symbols.append(factor.reshape(-1))
                inverse.append(torch.full((factor.numel(),), exponent < 0))
    sizes = [s.numel() for s in symbols]
    none = torch.empty(0, dtype=torch.int64)
    return Recipe(torch.cat([none, *symbols]), torch.cat([none.bool(), *inverse]), sizes, factors)


def _blocks(tensor: Tensor, factors: list[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Runs of rows that fit a cache, each with its part of every factor."""
    size = tensor.numel() * tensor.element_size()
    if len(factors) < 2 or size <= _BLOCK:
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
