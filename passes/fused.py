"""Matrices times the factors of their rows and of their columns: many in one call, each in one pass over memory.

torch multiplies two tensors at a time, so both factors cost it two passes, and each tensor a call. The kernel that does
it in one is compiled by numba, which is optional (the extra `fast`), and runs on torch's own threads: without the one,
or the other where torch uses several, nothing is a matrix to it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxteleport.passes.team import team

_RUN = 1 << 16  # elements of a line, at most: what threads are dealt


@dataclass(frozen=True, slots=True)
class Matrix:
    """A contiguous tensor as the kernel sees it: [n, m], with a factor [n] of its rows, [m] of its columns, or both."""

    tensor: Tensor
    n: int
    m: int
    rows: Tensor | None
    columns: Tensor | None

    def lines(self) -> Iterator[tuple[int, ...]]:
        """Runs of rows as lines of the kernel's table."""
        size, step = self.tensor.element_size(), max(1, _RUN // max(1, self.m))
        for i in range(0, self.n, step):
            rows = 0 if self.rows is None else self.rows.data_ptr() + i * self.rows.element_size()
            columns = 0 if self.columns is None else self.columns.data_ptr()
            yield self.tensor.data_ptr() + i * self.m * size, min(step, self.n - i), self.m, rows, columns


def matrix(tensor: Tensor, factors: Sequence[Tensor]) -> Matrix | None:
    """A tensor that the kernel can multiply by its factors (broadcastable to it); None where it cannot."""
    if not (tensor.is_cpu and tensor.is_contiguous() and tensor.dtype in kernels()):
        return None
    if torch.get_num_threads() > 1 and team() is None:
        return None
    shape, ndim = tensor.shape, tensor.ndim
    for axis in range(ndim + 1):
        leading, trailing = (*shape[:axis], *(1,) * (ndim - axis)), (*(1,) * axis, *shape[axis:])
        left = list(factors)
        rows, columns = _taken(left, leading), _taken(left, trailing)
        if not left:
            return Matrix(tensor.detach(), math.prod(shape[:axis]), math.prod(shape[axis:]), rows, columns)
    return None


def _taken(factors: list[Tensor], shape: tuple[int, ...]) -> Tensor | None:
    """The first factor of a shape, taken out of a list."""
    at = next((i for i, f in enumerate(factors) if f.shape == shape), None)
    return None if at is None else factors.pop(at)


@dataclass
class Fused:
    """Matrices of one number type; they are kept, for the kernel is given the addresses of their tensors."""

    matrices: list[Matrix] = field(default_factory=list)

    def add(self, matrix: Matrix) -> None:
        """A matrix to multiply; its factors are views of numbers that may still change."""
        self.matrices.append(matrix)
        self.__dict__.pop("table", None)
        self.__dict__.pop("jobs", None)

    @functools.cached_property
    def table(self) -> Any:
        """The lines as the kernel takes them, int64 [lines, 5]."""
        return np.array([line for m in self.matrices for line in m.lines()], dtype=np.int64).reshape(-1, 5)

    @functools.cached_property
    def jobs(self) -> dict[int, Any]:
        """The jobs made so far, by their number of parts."""
        return {}

    def job(self, parts: int) -> Any:
        """The table in parts of about as many elements, as `kernel.member` takes it."""
        if parts not in self.jobs:
            ends = (self.table[:, 1] * self.table[:, 2]).cumsum()
            shares = ends[-1] * np.arange(1, parts) // parts
            begins = [0, *(np.searchsorted(ends, shares) + 1), len(ends)]
            self.jobs[parts] = np.concatenate([[parts], begins, self.table.reshape(-1)]).astype(np.int64)
        return self.jobs[parts]

    def scale_(self) -> None:
        """Multiply the matrices in place, on as many threads as torch uses."""
        if not len(self.table):
            return
        kernel, threads, run = kernels()[self.matrices[0].tensor.dtype], torch.get_num_threads(), team()
        if threads == 1 or run is None:
            kernel.alone(self.table)
        else:
            run(kernel.member.address, self.job(threads).ctypes.data, threads)


@dataclass(frozen=True)
class Kernel:
    """The compiled code for one number type: for one thread, and what each thread of a team runs."""

    alone: Callable[[Any], None]
    member: Any


@functools.cache
def compiled() -> Any:
    """The module of compiled code; None where there is no numba, or no folder that it may keep its code in."""
    try:
        from fxteleport.passes import kernel
    except (ImportError, RuntimeError):
        return None
    return kernel


@functools.cache
def kernels() -> dict[torch.dtype, Kernel]:
    """The kernel for each number type."""
    k = compiled()
    if k is None:
        return {}
    return {
        torch.float32: Kernel(k.float32, k.team_float32),
        torch.float64: Kernel(k.float64, k.team_float64),
        torch.bfloat16: Kernel(k.bfloat16, k.team_bfloat16),
    }


def numbers(values: Tensor, lowest: Any) -> Tensor | None:
    """Values, 1, and their inverses (float64 [2 * len(values) + 2]); None where a value is not allowed.

    Allowed are finite ones above their `lowest` but 0. Without numba, and of values that are not on the CPU, None too.
    """
    code = compiled() if values.is_cpu and values.is_contiguous() and values.dtype == torch.float64 else None
    if code is None:
        return None
    found = torch.empty(2 * len(values) + 2, dtype=torch.float64)
    return found if code.numbers(values.numpy(), lowest, found.numpy()) else None


def look_up(numbers: Tensor, rounds: Sequence[Tensor], found: Tensor) -> None:
    """Put the numbers at places into the first of `found`; those of later rounds are multiplied to them."""
    code = compiled() if numbers.is_cpu and found.is_cpu else None
    if code is not None:
        for i, places in enumerate(rounds):
            code.look_up(numbers.numpy(), places.numpy(), found.numpy(), i > 0)
        return
    there = numbers.to(dtype=found.dtype, device=found.device)
    first, *more = rounds
    torch.index_select(there, 0, first, out=found)
    for places in more:
        found[: len(places)].mul_(there.index_select(0, places))
