"""Matrices times the factors of their rows and of their columns: many in one call, each in one pass over memory.

torch multiplies two tensors at a time, so it needs two passes for both factors, and a call for each tensor. This kernel
does all in one. numba compiles it, which is optional (the extra `fast`), and it runs on torch's own threads: without
numba, or without those threads where torch uses several, `matrix` is None and torch scales. On a GPU the kernel is
Triton's (`gpu.py`).
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

from fxteleport.passes.scale import gpu
from fxteleport.passes.scale.openmp import team

CPU = torch.device("cpu")
_RUN = 1 << 16  # the most elements of a line, the unit of work of a thread


Shape = tuple[int, ...]
Factor = tuple[int, Shape]  # the index at which its numbers begin, and its shape


@dataclass(frozen=True, slots=True)
class Matrix:
    """A contiguous tensor as the kernel sees it: [n, m], with a factor [n] of its rows, [m] of its columns, or both.

    Its factors are indices into the table of numbers: a tensor for each would take more time than scaling small
    weights.
    """

    tensor: Tensor
    n: int
    m: int
    rows: int | None
    columns: int | None

    def line(self, numbers: int, size: int) -> gpu.Line:
        """A line of the kernel's table, for numbers of `size` bytes each at the address `numbers`."""
        rows = 0 if self.rows is None else numbers + self.rows * size
        columns = 0 if self.columns is None else numbers + self.columns * size
        return self.tensor.data_ptr(), self.n, self.m, rows, columns

    def lines(self, numbers: int, size: int) -> Iterator[gpu.Line]:
        """Runs of rows as lines of the kernel's table."""
        own, step = self.tensor.element_size(), max(1, _RUN // max(1, self.m))
        start, n, m, rows, columns = self.line(numbers, size)
        for i in range(0, n, step):
            yield start + i * m * own, min(step, n - i), m, rows and rows + i * size, columns


def matrix(tensor: Tensor, factors: Sequence[Factor]) -> Matrix | None:
    """A tensor that the kernel can multiply by its factors (broadcastable to it); None where it cannot."""
    if not (tensor.is_contiguous() and _has_kernel(tensor)):
        return None
    cut = _cut(tuple(tensor.shape), tuple(shape for _, shape in factors))
    if cut is None or (tensor.is_cuda and cut[1] > gpu.MOST_COLUMNS):
        return None
    n, m, *which = cut
    return Matrix(tensor.detach(), n, m, *(None if i is None else factors[i][0] for i in which))


def _has_kernel(tensor: Tensor) -> bool:
    if tensor.is_cuda:
        return tensor.dtype in gpu.DTYPES and gpu.works(tensor.dtype, tensor.device)
    if not tensor.is_cpu or tensor.dtype not in kernels():
        return False
    return torch.get_num_threads() == 1 or team() is not None


@functools.lru_cache(1 << 12)
def _cut(shape: Shape, factors: tuple[Shape, ...]) -> tuple[int, int, int | None, int | None] | None:
    """A tensor as a matrix [n, m] for its factors: n, m, and which factors are that of the rows and of the columns."""
    ndim = len(shape)
    for axis in range(ndim + 1):
        left = dict(enumerate(factors))
        rows = _taken(left, (*shape[:axis], *(1,) * (ndim - axis)))
        columns = _taken(left, (*(1,) * axis, *shape[axis:]))
        if not left:
            return math.prod(shape[:axis]), math.prod(shape[axis:]), rows, columns
    return None


def _taken(factors: dict[int, Shape], shape: Shape) -> int | None:
    """Remove the first factor of a shape, and return its index; None if there is none."""
    index = next((i for i, own in factors.items() if own == shape), None)
    if index is not None:
        del factors[index]
    return index


@dataclass
class Fused:
    """Matrices of one number type, and the numbers of all their factors, which may change between calls.

    It keeps both alive, since the kernel gets their addresses.
    """

    numbers: Tensor
    matrices: list[Matrix] = field(default_factory=list)

    def add(self, matrix: Matrix) -> None:
        """Add a matrix."""
        self.matrices.append(matrix)
        for cached in ("table", "jobs", "tiles"):
            self.__dict__.pop(cached, None)

    @functools.cached_property
    def table(self) -> Any:
        """The lines as the kernel takes them, int64 [lines, 5]."""
        where, size = self.numbers.data_ptr(), self.numbers.element_size()
        return np.array([line for m in self.matrices for line in m.lines(where, size)], np.int64).reshape(-1, 5)

    @functools.cached_property
    def jobs(self) -> dict[int, Any]:
        """A cache of jobs, by their number of parts."""
        return {}

    def job(self, parts: int) -> Any:
        """The table in parts of about as many elements, as `kernel.member` takes it."""
        if parts not in self.jobs:
            ends = (self.table[:, 1] * self.table[:, 2]).cumsum()
            shares = ends[-1] * np.arange(1, parts) // parts
            begins = [0, *(np.searchsorted(ends, shares) + 1), len(ends)]
            self.jobs[parts] = np.concatenate([[parts], begins, self.table.reshape(-1)]).astype(np.int64)
        return self.jobs[parts]

    @functools.cached_property
    def tiles(self) -> gpu.Tiles:
        """The matrices as the kernel for GPUs takes them."""
        where, size = self.numbers.data_ptr(), self.numbers.element_size()
        lines = [m.line(where, size) for m in self.matrices]
        return gpu.Tiles(lines, self.matrices[0].tensor.dtype, self.numbers.device)

    def scale_(self) -> None:
        """Multiply the matrices in place, on as many threads as torch uses."""
        if self.numbers.is_cuda:
            if self.matrices:
                self.tiles.scale_()
            return
        if not len(self.table):
            return
        kernel, threads, run = kernels()[self.matrices[0].tensor.dtype], torch.get_num_threads(), team()
        if threads == 1 or run is None:
            kernel.alone(self.table)
        else:
            run(kernel.member.address, self.job(threads).ctypes.data, threads)


@dataclass(frozen=True)
class Kernel:
    """The compiled code for one number type: for one thread, and for each thread of a team."""

    alone: Callable[[Any], None]
    member: Any


@functools.cache
def compiled() -> Any:
    """The module of compiled code; None without numba, or without a folder for its cache."""
    try:
        from fxteleport.passes.scale import numba_kernel
    except (ImportError, RuntimeError):
        return None
    return numba_kernel


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


def numbers(values: Tensor, lowest: Any, device: torch.device = CPU) -> Tensor | None:
    """The table of numbers: values, 1, and their inverses (float64 [2 * len(values) + 2]); None for an invalid value.

    Valid values are finite, not 0, and above their `lowest`. None also without numba, and for values that are not on
    the CPU.

    Args:
        device: the device for the table. A GPU gets the values only, and computes the inverses itself.
    """
    code = compiled() if values.is_cpu and values.is_contiguous() and values.dtype == torch.float64 else None
    if code is None:
        return None
    sent = device.type == "cuda"
    buffer = torch.empty((1 if sent else 2) * (len(values) + 1), dtype=torch.float64, device=CPU, pin_memory=sent)
    if not code.numbers(values.numpy(), lowest, buffer.numpy()):
        return None
    if not sent:
        return buffer
    there = buffer.to(device, non_blocking=True)
    return torch.cat([there, there.reciprocal()])


def look_up(numbers: Tensor, rounds: Sequence[Tensor], factors: Tensor) -> None:
    """Fill `factors` with the numbers at the first round's indices; multiply its first ones by later rounds'."""
    code = compiled() if numbers.is_cpu and factors.is_cpu else None
    if code is not None:
        for i, indices in enumerate(rounds):
            code.look_up(numbers.numpy(), indices.numpy(), factors.numpy(), i > 0)
        return
    there = numbers.to(dtype=factors.dtype, device=factors.device)
    first, *more = rounds
    torch.index_select(there, 0, first, out=factors)
    for indices in more:
        factors[: len(indices)].mul_(there.index_select(0, indices))
