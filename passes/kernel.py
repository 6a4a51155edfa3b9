"""The kernel of `fused.py`, compiled by numba: importing this module needs it.

It is handed addresses, one call for many matrices: a call from Python for each costs more than a small matrix, and
threads would wait for each other between them. A *table* has a line for each matrix: its address, n, m, and the
addresses of its [n] and [m] factors, 0 for none.
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


def _same_bits(number: Any) -> Any:
    """A function from a number to the one of another type that has its bits."""

    @intrinsic
    def same_bits(context: Any, value: Any) -> Any:
        def build(target: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], target.get_value_type(signature.return_type))

        return number(value), build

    return same_bits


_to_float32, _to_float64, _to_uint16 = _pointer(types.float32), _pointer(types.float64), _pointer(types.uint16)
_float, _bits = _same_bits(types.float32), _same_bits(types.uint32)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _multiply(values: Any, rows: Any, columns: Any) -> None:
    n, m = values.shape
    if not len(columns):
        for i in range(n):
            row = rows[i]
            for j in range(m):
                values[i, j] = values[i, j] * row
    elif not len(rows):
        for i in range(n):
            for j in range(m):
                values[i, j] = values[i, j] * columns[j]
    else:
        for i in range(n):
            row = rows[i]
            for j in range(m):
                values[i, j] = values[i, j] * row * columns[j]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _widened(half: Any) -> Any:
    """A bfloat16 is the upper half of a float32."""
    return _float(np.uint32(np.uint32(half) << np.uint32(16)))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _rounded(number: Any) -> Any:
    """A float32 to the nearest bfloat16, ties to even."""
    bits = _bits(number)
    up = np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    return np.uint16(up >> np.uint32(16)) if number == number else np.uint16(0x7FC0)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _multiply_bfloat16(values: Any, rows: Any, columns: Any) -> None:
    """In float32, rounded once."""
    n, m = values.shape
    for i in range(n):
        row = rows[i] if len(rows) else np.float32(1)
        if len(columns):
            for j in range(m):
                values[i, j] = _rounded(_widened(values[i, j]) * row * columns[j])
        else:
            for j in range(m):
                values[i, j] = _rounded(_widened(values[i, j]) * row)


@numba.njit(["void(int64[:, ::1])"], nogil=True, cache=True, error_model="numpy")
def float32(table: Any) -> None:
    """Multiply the matrices of a table, of float32."""
    for k in range(table.shape[0]):
        address, n, m, rows, columns = table[k]
        _multiply(
            carray(_to_float32(address), (n, m), np.float32),
            carray(_to_float32(rows), (n if rows else 0,), np.float32),
            carray(_to_float32(columns), (m if columns else 0,), np.float32),
        )


@numba.njit(["void(int64[:, ::1])"], nogil=True, cache=True, error_model="numpy")
def float64(table: Any) -> None:
    """Multiply the matrices of a table, of float64."""
    for k in range(table.shape[0]):
        address, n, m, rows, columns = table[k]
        _multiply(
            carray(_to_float64(address), (n, m), np.float64),
            carray(_to_float64(rows), (n if rows else 0,), np.float64),
            carray(_to_float64(columns), (m if columns else 0,), np.float64),
        )


@numba.njit(["void(int64[:, ::1])"], nogil=True, cache=True, error_model="numpy")
def bfloat16(table: Any) -> None:
    """Multiply the matrices of a table, of bfloat16, by factors in float32."""
    for k in range(table.shape[0]):
        address, n, m, rows, columns = table[k]
        _multiply_bfloat16(
            carray(_to_uint16(address), (n, m), np.uint16),
            carray(_to_float32(rows), (n if rows else 0,), np.float32),
            carray(_to_float32(columns), (m if columns else 0,), np.float32),
        )


# What each thread of an OpenMP team runs, `void f(int64 *job)`: the kernel, on the thread's own lines of the table.
# A job is the number of parts, the line at which each part begins and the last one ends, and then the table.
_JOB = "void(CPointer(int64))"
_thread: Any = types.ExternalFunction("omp_get_thread_num", types.int32())
_threads: Any = types.ExternalFunction("omp_get_num_threads", types.int32())


@numba.njit(nogil=True, cache=True)
def _lines(job: Any, part: int) -> Any:
    parts = carray(job, (1,), np.int64)[0]
    begins = carray(job, (parts + 2,), np.int64)[1:]
    size = 5 * begins[parts]
    table = carray(job, (parts + 2 + size,), np.int64)[parts + 2 :].reshape((begins[parts], 5))
    return table[begins[part] : begins[part + 1]]


@numba.njit(nogil=True, cache=True)
def _parts(job: Any) -> Any:
    return range(_thread(), carray(job, (1,), np.int64)[0], _threads())


@numba.cfunc(_JOB, cache=True)
def team_float32(job: Any) -> None:
    """`float32` by a team."""
    for part in _parts(job):
        float32(_lines(job, part))


@numba.cfunc(_JOB, cache=True)
def team_float64(job: Any) -> None:
    """`float64` by a team."""
    for part in _parts(job):
        float64(_lines(job, part))


@numba.cfunc(_JOB, cache=True)
def team_bfloat16(job: Any) -> None:
    """`bfloat16` by a team."""
    for part in _parts(job):
        bfloat16(_lines(job, part))
