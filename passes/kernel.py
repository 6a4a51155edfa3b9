"""The kernel of `fused.py`, compiled by numba: importing this module needs it.

It is handed addresses, one call for many matrices: a call from Python for each costs more than a small matrix, and
threads would wait for each other between them.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray


def _pointer(number: Any) -> Any:
    """A function from an address to a typed pointer."""

    @intrinsic
    def pointer(context: Any, address: Any) -> Any:
        def build(target: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], target.get_value_type(signature.return_type))

        return types.CPointer(number)(types.int64), build

    return pointer


_to_float32, _to_float64, _to_uint16 = _pointer(types.float32), _pointer(types.float64), _pointer(types.uint16)
_RUN = 2048  # columns of bfloat16 that are float32 at a time: they stay in the processor's nearest cache


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _multiply(values: Any, rows: Any, columns: Any) -> None:
    for i in range(values.shape[0]):
        row = rows[i]
        for j in range(values.shape[1]):
            values[i, j] = values[i, j] * row * columns[j]


@numba.njit(["void(int64[:, ::1])"], nogil=True, cache=True, error_model="numpy")
def float32(table: Any) -> None:
    """Multiply matrices of float32. A line for each: its address, n, m, the addresses of its [n] and [m] factors."""
    for k in range(table.shape[0]):
        address, n, m, rows, columns = table[k]
        _multiply(
            carray(_to_float32(address), (n, m), np.float32),
            carray(_to_float32(rows), (n,), np.float32),
            carray(_to_float32(columns), (m,), np.float32),
        )


@numba.njit(["void(int64[:, ::1])"], nogil=True, cache=True, error_model="numpy")
def float64(table: Any) -> None:
    """Multiply matrices of float64, as `float32` does."""
    for k in range(table.shape[0]):
        address, n, m, rows, columns = table[k]
        _multiply(
            carray(_to_float64(address), (n, m), np.float64),
            carray(_to_float64(rows), (n,), np.float64),
            carray(_to_float64(columns), (m,), np.float64),
        )


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _multiply_bfloat16(values: Any, rows: Any, columns: Any) -> None:
    """In float32, rounded once, to the nearest and to even: the upper half of a float32 is a bfloat16."""
    wide = np.empty(min(_RUN, values.shape[1]), np.float32)
    bits = wide.view(np.uint32)
    for i in range(values.shape[0]):
        row = rows[i]
        for start in range(0, values.shape[1], _RUN):
            run = values[i, start : start + _RUN]
            factors = columns[start : start + _RUN]
            for j in range(len(run)):
                bits[j] = np.uint32(run[j]) << np.uint32(16)
            for j in range(len(run)):
                wide[j] = wide[j] * row * factors[j]
            for j in range(len(run)):
                rounded = np.uint32(bits[j] + np.uint32(0x7FFF) + ((bits[j] >> np.uint32(16)) & np.uint32(1)))
                run[j] = np.uint16(rounded >> np.uint32(16)) if wide[j] == wide[j] else np.uint16(0x7FC0)


@numba.njit(["void(int64[:, ::1])"], nogil=True, cache=True, error_model="numpy")
def bfloat16(table: Any) -> None:
    """Multiply matrices of bfloat16 by factors in float32, as `float32` does."""
    for k in range(table.shape[0]):
        address, n, m, rows, columns = table[k]
        _multiply_bfloat16(
            carray(_to_uint16(address), (n, m), np.uint16),
            carray(_to_float32(rows), (n,), np.float32),
            carray(_to_float32(columns), (m,), np.float32),
        )
