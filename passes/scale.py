"""Scale tensors in place by their CoB maps: one pass over memory, and no factor of a weight's own size.

A weight is seen as a matrix of rows. Its factor is that of the rows (a column) times that of what is in a row (a
vector): both are small. Blocks of rows are scaled by one, then by the other, while they are in the processor's cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fxteleport.passes.maps import ONE, CobMap

_BLOCK = 1 << 19  # bytes of a weight scaled at a time: it stays in a core's cache between the two passes
_BLOCK_CUDA = 1 << 25


class Numbers(NamedTuple):
    """tau of every symbol and its inverse, in the type and on the device they are multiplied in."""

    tau: Tensor
    inverse: Tensor

    def of(self, symbols: Tensor, exponent: int) -> Tensor:
        """tau[symbols] ** exponent."""
        if exponent in (1, -1):
            return (self.tau if exponent == 1 else self.inverse).take(symbols)
        return self.tau.take(symbols) ** exponent


class Scaler:
    """Scales tensors by maps under one tau (float64 [symbols]); numbers are converted once for each type."""

    def __init__(self, tau: Tensor) -> None:
        self.tau = tau
        self._numbers: dict[tuple[torch.dtype, torch.device], Numbers] = {}

    def numbers(self, tensor: Tensor) -> Numbers:
        """The numbers for a tensor; half precision is scaled in float32, so that only the result is rounded."""
        kind = torch.float64 if tensor.dtype in (torch.float64, torch.complex128) else torch.float32
        key = (kind, tensor.device)
        if key not in self._numbers:
            pair = (self.tau, self.tau.reciprocal())
            self._numbers[key] = Numbers(*(t.to(dtype=kind, device=tensor.device) for t in pair))
        return self._numbers[key]

    @torch.no_grad()
    def scale_(self, tensor: Tensor, cob: CobMap) -> Tensor:
        """Multiply `tensor` by tau[cob] in place and return it."""
        numbers = self.numbers(tensor)
        column = row = both = None
        for symbols, exponent in cob.factors:
            if symbols.numel() == 1 and int(symbols) == ONE:
                continue
            value = numbers.of(symbols.to(tensor.device), exponent)
            if value.ndim == 0 or value.shape[0] == 1:
                row = value if row is None else row * value
            elif value.numel() == value.shape[0]:
                column = value if column is None else column * value
            else:
                both = value if both is None else both * value
        return _multiply(tensor, [f for f in (row, column, both) if f is not None])


def _multiply(tensor: Tensor, factors: list[Tensor]) -> Tensor:
    """Multiply by each factor in turn, block by block where the tensor is larger than a cache."""
    if tensor.ndim > 2 and tensor.is_contiguous():  # long rows: short inner axes are slow to broadcast over
        tail = tensor.shape[1:]
        factors = [f.flatten(1) if f.numel() == f.shape[0] else f.expand(-1, *tail).flatten(1) for f in factors]
        matrix = tensor.view(tensor.shape[0], -1)
    else:
        matrix = tensor
    if len(factors) > 1 and tensor.dtype in (torch.bfloat16, torch.float16):
        return _multiply_half(tensor, matrix, factors)
    for parts in _blocks(matrix, factors):
        block, *pieces = parts
        for piece in pieces:
            block.mul_(piece)
    return tensor


def _multiply_half(tensor: Tensor, matrix: Tensor, factors: list[Tensor]) -> Tensor:
    """Half precision by several factors: only the result is rounded."""
    for parts in _blocks(matrix, factors):
        block, *pieces = parts
        wide = block.float()
        for piece in pieces:
            wide.mul_(piece)
        block.copy_(wide)
    return tensor


def _blocks(matrix: Tensor, factors: list[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Runs of rows that fit a cache, each with its part of every factor."""
    limit = _BLOCK_CUDA if matrix.is_cuda else _BLOCK
    size = matrix.numel() * matrix.element_size()
    if len(factors) < 2 or size <= limit:
        yield matrix, *factors
        return
    rows = max(1, limit * len(matrix) // size)
    columns = [f.split(rows) if len(f) > 1 else itertools.repeat(f) for f in factors]
    yield from zip(matrix.split(rows), *columns, strict=False)
