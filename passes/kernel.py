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


_to_float32, _to_float64 = _pointer(types.float32), _pointer(types.float64)


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
