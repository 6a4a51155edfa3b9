"""The kernel of `row_column_scaling.py`, compiled by numba: importing this module needs it.

What comes before the kernel, finding its numbers, is compiled too: after weights have filled the caches, each function
of a library that runs has to be read from memory first, so that few small ones take half the time.

The kernel is handed addresses, one call for many matrices: a call from Python for each costs more than a small matrix,
and threads would wait for each other between them. A *table* has a line for each matrix: its address, n, m, and the
addresses of its [n] and [m] factors, 0 for none.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic, overload
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

# The factors of the columns are read again for every row. While they fit the first-level cache beside a row that costs
# nothing; beyond, three rows share a reading of them. Three, because compilers make vectors of 2, 4 or 8 rows, which
# are far apart in memory, and then gather each from as many places.
_FIT = 12 << 10  # bytes of columns


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _widened(half: Any) -> Any:
    """A bfloat16 is the upper half of a float32."""
    return _float(np.uint32(np.uint32(half) << np.uint32(16)))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _rounded(number: Any) -> Any:
    """A float32 to the nearest bfloat16, ties to even.

    No number needs a look at it first: a product is no number only where its bfloat16 was none, whose lower half, now
    in the product, is zero, so that nothing is carried into the upper one.
    """
    bits = _bits(number)
    up = np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    return np.uint16(up >> np.uint32(16))


def _product(value: Any, row: Any, column: Any) -> Any:
    """A value times its factors; that of a bfloat16 (the bits of one) in float32, rounded once."""
    raise NotImplementedError  # numba compiles one of the two below


@overload(_product, strict=False)  # annotations are no part of an implementation
def _product_of(value: Any, row: Any, column: Any) -> Any:
    if isinstance(value, types.Integer):
        return lambda value, row, column: _rounded(_widened(value) * row * column)
    return lambda value, row, column: value * row * column


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _multiply(values: Any, rows: Any, columns: Any) -> None:
    n, m = values.shape
    one = rows.dtype.type(1)
    for i in range(n):
        row = rows[i] if len(rows) else one
        if len(columns):
            for j in range(m):
                values[i, j] = _product(values[i, j], row, columns[j])
        else:
            for j in range(m):
                values[i, j] = _product(values[i, j], row, one)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _multiply_threes(values: Any, rows: Any, columns: Any) -> None:
    """`_multiply`, three rows at a time."""
    n, m = values.shape
    one = rows.dtype.type(1)
    rest = n - n % 3
    for i in range(0, rest, 3):
        first, second, third = values[i], values[i + 1], values[i + 2]
        a, b, c = (rows[i], rows[i + 1], rows[i + 2]) if len(rows) else (one, one, one)
        for j in range(m):
            column = columns[j]
            first[j] = _product(first[j], a, column)
            second[j] = _product(second[j], b, column)
            third[j] = _product(third[j], c, column)
    _multiply(values[rest:], rows[rest:], columns)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _scale(values: Any, rows: Any, columns: Any) -> None:
    if columns.nbytes <= _FIT:
        _multiply(values, rows, columns)
    else:
        _multiply_threes(values, rows, columns)


@numba.njit(["void(int64[:, ::1])"], nogil=True, cache=True, error_model="numpy")
def float32(table: Any) -> None:
    """Multiply the matrices of a table, of float32."""
    for k in range(table.shape[0]):
        address, n, m, rows, columns = table[k]
        _scale(
            carray(_to_float32(address), (n, m), np.float32),
            carray(_to_float32(rows), (n if rows else 0,), np.float32),
            carray(_to_float32(columns), (m if columns else 0,), np.float32),
        )


@numba.njit(["void(int64[:, ::1])"], nogil=True, cache=True, error_model="numpy")
def float64(table: Any) -> None:
    """Multiply the matrices of a table, of float64."""
    for k in range(table.shape[0]):
        address, n, m, rows, columns = table[k]
        _scale(
            carray(_to_float64(address), (n, m), np.float64),
            carray(_to_float64(rows), (n if rows else 0,), np.float64),
            carray(_to_float64(columns), (m if columns else 0,), np.float64),
        )


@numba.njit(["void(int64[:, ::1])"], nogil=True, cache=True, error_model="numpy")
def bfloat16(table: Any) -> None:
    """Multiply the matrices of a table, of bfloat16, by factors in float32."""
    for k in range(table.shape[0]):
        address, n, m, rows, columns = table[k]
        _scale(
            carray(_to_uint16(address), (n, m), np.uint16),
            carray(_to_float32(rows), (n if rows else 0,), np.float32),
            carray(_to_float32(columns), (m if columns else 0,), np.float32),
        )


@numba.njit(["boolean(float64[::1], float32[::1], float64[::1])"], nogil=True, cache=True, error_model="numpy")
def numbers(values: Any, lowest: Any, found: Any) -> bool:
    """Fill in values, 1 and, where there is room, their inverses; false where a value is not allowed.

    Allowed are finite values above their lowest, but 0.
    """
    n = len(values)
    room = len(found) > n + 1
    allowed = True
    for i in range(n):
        value = values[i]
        allowed &= (value > lowest[i]) & (value < np.inf) & (value != 0)
        found[i] = value
        if room:
            found[n + 1 + i] = 1 / value
    found[n] = found[-1] = 1
    return allowed


@numba.njit(
    ["void(float64[::1], int64[::1], float32[::1], boolean)", "void(float64[::1], int64[::1], float64[::1], boolean)"],
    nogil=True,
    cache=True,
    error_model="numpy",
)  # fmt: skip
def look_up(numbers: Any, places: Any, found: Any, times: bool) -> None:
    """Put the numbers at some places into the first of `found`, or multiply those by them."""
    number = found.dtype.type
    for i in range(len(places)):
        found[i] = found[i] * number(numbers[places[i]]) if times else number(numbers[places[i]])


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
