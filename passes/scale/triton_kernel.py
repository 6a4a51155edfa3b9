"""The kernel of `gpu.py`, which Triton compiles at its first launch: importing this module needs it.

A launch has a program for each tile: a run of `TILE` elements of a matrix, across its rows. The table has a line for
each tile: its address, its number of elements, the matrix' number of columns, the column in which it begins, and the
addresses of the factors of its first row and of the first column (0 for none). A program reads this line alone before
its tile.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

TILE = 1024  # elements: several vectors for each thread, and still enough tiles in a small model for a GPU
VECTOR = tl.constexpr(16)  # bytes that a thread loads at once, from an aligned address
_NUMBERS = {getattr(torch, n): getattr(tl, n) for n in ("float64", "float32", "bfloat16", "float16")}


def launch(table: Any, dtype: torch.dtype, vectors: bool) -> None:
    """Multiply tiles of one number type in place, on the device of their table.

    With `vectors`, all addresses but those of factors of rows are multiples of `VECTOR`, and so are rows, in bytes.
    """
    wide = tl.float64 if dtype == torch.float64 else tl.float32
    run = VECTOR.value // dtype.itemsize if vectors else 1
    with torch.cuda.device_of(table):
        _scale[(len(table),)](table, _NUMBERS[dtype], wide, run, TILE, num_warps=4)


@triton.jit
def _scale(table: tl.tensor, number: tl.constexpr, wide: tl.constexpr, run: tl.constexpr, size: tl.constexpr) -> None:
    """A tile times its factors, rounded once.

    A run of elements lies in one row: it is one vector, with one factor for its row, and a vector of column factors.
    """
    line = table + 6 * tl.program_id(0).to(tl.int64)
    address, left, m = tl.load(line), tl.load(line + 1), tl.load(line + 2).to(tl.int32)
    column, rows, columns = tl.load(line + 3).to(tl.int32), tl.load(line + 4), tl.load(line + 5)
    first = tl.arange(0, size // run) * run
    more = 0
    if run > 1:
        first, more = first[:, None], tl.arange(0, run)[None, :]
    there = first < left
    values = address.to(tl.pointer_type(number)) + first
    values = tl.multiple_of(values, (VECTOR, 1)) + more if run > 1 else values
    factor = tl.load(values, there).to(wide)
    column += first
    row = (column.to(tl.uint32) // m.to(tl.uint32)).to(tl.int32)
    if rows != 0:
        factor *= tl.load(rows.to(tl.pointer_type(wide)) + row, there)
    if columns != 0:
        factors = columns.to(tl.pointer_type(wide)) + (column - row * m)
        factors = tl.multiple_of(factors, (VECTOR, 1)) + more if run > 1 else factors
        factor *= tl.load(factors, there)
    tl.store(values, factor.to(number), there)
