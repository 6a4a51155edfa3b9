"""Matrices on a GPU times the factors of their rows and of their columns: all in one launch, or in two.

torch needs a launch for each factor of each tensor, and as many passes over memory. This kernel needs one launch and
one pass. Triton compiles it, which comes with torch's builds for GPUs; where that fails, `works` is False and torch
scales.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
MOST_COLUMNS = (1 << 31) - (1 << 16)  # the kernel counts columns, and a tile more, in 32 bits
Line = tuple[int, int, int, int, int]  # a line of the kernel's table: a matrix' address, n, m, its factors' addresses


class Tiles:
    """Matrices of one number type on one device, as the kernel takes them.

    The tables take 48 bytes a tile: 1.2 % of the memory of matrices in float32, 2.3 % in bfloat16.
    """

    def __init__(self, lines: Sequence[Line], dtype: torch.dtype, device: torch.device) -> None:
        from fxteleport.passes.scale import triton_kernel

        self._launches = []
        table = np.array(lines, np.int64).reshape(-1, 5)
        address, _, m, _, columns = table.T
        vectors = (np.stack([address, m * dtype.itemsize, columns]) % triton_kernel.VECTOR.value == 0).all(0)
        for which in (True, False):
            tiles = _tiles(
                table[vectors == which], triton_kernel.TILE, dtype.itemsize, 8 if dtype == torch.float64 else 4
            )
            if len(tiles):
                there = torch.from_numpy(tiles).to(device)
                self._launches.append(functools.partial(triton_kernel.launch, there, dtype, which))

    def scale_(self) -> None:
        """Multiply the matrices in place."""
        for launch in self._launches:
            launch()


def _tiles(table: Any, size: int, own: int, factor: int) -> Any:
    """The lines of the kernel's table; an element has `own` bytes, a factor `factor`."""
    counts = -(-(table[:, 1] * table[:, 2]) // size)
    address, n, m, rows, columns = table.repeat(counts, 0).T
    start = (np.arange(len(address)) - np.repeat(counts.cumsum() - counts, counts)) * size
    row, column = start // m, start % m
    rows = np.where(rows, rows + row * factor, 0)
    return np.stack([address + start * own, np.minimum(n * m - start, size), m, column, rows, columns], 1)


@functools.cache
def works(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel works for this number type on this device, by trying it on one number."""
    try:
        number, factor = torch.ones((), dtype=dtype, device=device), torch.full((), 2.0, device=device)
        factor = factor.to(torch.float64 if dtype == torch.float64 else torch.float32)
        Tiles([(number.data_ptr(), 1, 1, factor.data_ptr(), 0)], dtype, device).scale_()
        return bool(number == 2)
    except Exception:  # no Triton, no compiler for its launcher, a number type that this device has not, ...
        return False
