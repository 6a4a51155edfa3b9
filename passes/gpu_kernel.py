"""The kernel of `tiles.py`, which Triton compiles at its first launch: importing this module needs it.

A launch has a program for each tile of each matrix: so many elements of it, whatever its rows are. The table of
*matrices* has a line for each, as in `kernel.py`: its address, n, m, and the addresses of its [n] and [m] factors, 0
for none. That of *tiles* has for each its matrix and its place in it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

TILE = 2048  # elements: several vectors for each thread, and yet a small model has tiles for all of a GPU
VECTOR = tl.constexpr(16)  # bytes that a thread loads at once, from an address that is a multiple of them
_NUMBERS = {getattr(torch, n): getattr(tl, n) for n in ("float64", "float32", "bfloat16", "float16")}


def launch(matrices: Any, tiles: Any, dtype: torch.dtype, vectors: bool) -> None:
    """Multiply matrices of one number type in place, on the device of the tables.

    With `vectors`, all addresses are multiples of `VECTOR`, and so are rows, in bytes.
    """
    wide = tl.float64 if dtype == torch.float64 else tl.float32
    run = VECTOR.value // dtype.itemsize if vectors else 1
    with torch.cuda.device_of(matrices):
        _scale[(len(tiles),)](matrices, tiles, _NUMBERS[dtype], wide, run, TILE, num_warps=4)


@triton.jit
def _scale(
    matrices: tl.tensor,
    tiles: tl.tensor,
    number: tl.constexpr,
    wide: tl.constexpr,
    run: tl.constexpr,
    size: tl.constexpr,
) -> None:
    """A tile times its factors, rounded once.

    No run of elements is in two rows: it is one vector, with one factor of its row, and a vector of those of columns.
    """
    tile = tiles + 2 * tl.program_id(0)
    matrix = matrices + 5 * tl.load(tile).to(tl.int64)
    start = tl.load(tile + 1).to(tl.int64) * size
    address, n, m = tl.load(matrix), tl.load(matrix + 1), tl.load(matrix + 2)
    rows, columns = tl.load(matrix + 3), tl.load(matrix + 4)
    row = start // m  # of its first element, in 64 bits, whose divisions are slow; those of the others are in 32
    column = (start - row * m).to(tl.int32)
    first = tl.arange(0, size // run) * run
    more = 0
    if run > 1:
        first, more = first[:, None], tl.arange(0, run)[None, :]
    there = first < n * m - start
    values = address.to(tl.pointer_type(number)) + start
    values = tl.multiple_of(values + first, (VECTOR, 1)) + more if run > 1 else values + first
    found = tl.load(values, there).to(wide)
    column += first
    below = (column.to(tl.uint32) // m.to(tl.uint32)).to(tl.int32)
    if rows != 0:
        found *= tl.load(rows.to(tl.pointer_type(wide)) + row + below, there)
    if columns != 0:
        factors = columns.to(tl.pointer_type(wide)) + (column - below * m.to(tl.int32))
        factors = tl.multiple_of(factors, (VECTOR, 1)) + more if run > 1 else factors
        found *= tl.load(factors, there)
    tl.store(values, found.to(number), there)
