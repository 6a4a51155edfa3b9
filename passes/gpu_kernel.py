"""The kernel of `tiles.py`, which Triton compiles at its first launch: importing this module needs it.

A launch has a program for each tile of each matrix: a run of its elements, whatever its rows are. The table of
*matrices* has a line for each, as in `kernel.py`: its address, n, m, and the addresses of its [n] and [m] factors, 0
for none. That of *tiles* has for each its matrix and its place in it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

TILE = 4096  # elements: several vectors for each thread, and yet a small model has tiles for all of a GPU
ALIGNED = 16  # bytes, of which an address is a multiple where threads may load as many at once
_NUMBERS = {getattr(torch, n): getattr(tl, n) for n in ("float64", "float32", "bfloat16", "float16")}


def launch(matrices: Any, tiles: Any, dtype: torch.dtype, aligned: bool) -> None:
    """Multiply matrices of one number type in place, on the device of the tables."""
    wide = tl.float64 if dtype == torch.float64 else tl.float32
    _scale[(len(tiles),)](matrices, tiles, _NUMBERS[dtype], wide, ALIGNED if aligned else 1, TILE, num_warps=8)


@triton.jit
def _scale(
    matrices: tl.tensor,
    tiles: tl.tensor,
    number: tl.constexpr,
    wide: tl.constexpr,
    aligned: tl.constexpr,
    size: tl.constexpr,
) -> None:
    tile = tiles + 2 * tl.program_id(0)
    matrix = matrices + 5 * tl.load(tile).to(tl.int64)
    start = tl.load(tile + 1).to(tl.int64) * size
    address, n, m = tl.load(matrix), tl.load(matrix + 1), tl.load(matrix + 2)
    rows, columns = tl.load(matrix + 3), tl.load(matrix + 4)
    row = start // m  # of its first element, in 64 bits, whose divisions are slow; those of the others are in 32
    column = (start - row * m).to(tl.int32)
    left = n * m - start
    values = tl.multiple_of(address.to(tl.pointer_type(number)) + start, aligned)
    rows += row * (wide.primitive_bitwidth // 8) * (rows != 0)
    if left >= size:
        _multiply(values, rows, columns, column, m.to(tl.int32), size, wide, size, True)
    else:
        _multiply(values, rows, columns, column, m.to(tl.int32), left.to(tl.int32), wide, size, False)


@triton.jit
def _multiply(
    values: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    column: tl.tensor,
    m: tl.tensor,
    left: tl.tensor,
    wide: tl.constexpr,
    size: tl.constexpr,
    whole: tl.constexpr,
) -> None:
    """A tile times its factors, rounded once. Masked loads are no vectors: only a tile that is not whole has them."""
    place = tl.arange(0, size)
    there = None if whole else place < left
    found = tl.load(values + place, there).to(wide)
    column += place
    row = (column.to(tl.uint32) // m.to(tl.uint32)).to(tl.int32)
    if rows != 0:
        found *= tl.load(rows.to(tl.pointer_type(wide)) + row, there)
    if columns != 0:
        found *= tl.load(columns.to(tl.pointer_type(wide)) + (column - row * m), there)
    tl.store(values + place, found.to(values.dtype.element_ty), there)
