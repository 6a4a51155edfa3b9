"""Matrices times the factors of their rows and of their columns in one pass over memory.

torch multiplies two tensors at a time, so both factors cost it two passes. The kernel that does it in one is compiled
by numba, which is optional (the extra `fast`): without it nothing is `fusible`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SHARE = 1 << 19  # elements that a thread takes at a time


def fusible(tensor: Tensor, factors: Sequence[Tensor]) -> bool:
    """True for a matrix with one factor of its rows and one of its columns, where the kernel can be had."""
    if len(factors) != 2 or not (tensor.is_cpu and tensor.is_contiguous()):
        return False
    rows, columns = sorted(factors, key=lambda f: f.shape[0] == 1)
    return (
        rows.numel() == len(rows) == len(tensor) > 1 == len(columns)
        and columns.shape[1:] == tensor.shape[1:]
        and tensor.dtype in kernels()
    )


@dataclass
class Fused:
    """Matrices of one number type, as the kernel takes them; the tensors are kept, for it is given their addresses."""

    kept: list[Tensor] = field(default_factory=list)
    lines: list[tuple[int, ...]] = field(default_factory=list)

    def add(self, tensor: Tensor, factors: Sequence[Tensor]) -> None:
        """A tensor that is `fusible` with these factors: views of numbers that may still change."""
        rows, columns = sorted(factors, key=lambda f: f.shape[0] == 1)
        self.kept += [tensor.detach(), rows, columns]
        self.lines += _runs(tensor, rows, columns)
        self.__dict__.pop("shares", None)

    @functools.cached_property
    def shares(self) -> list[Any]:
        """Tables of about as many elements, small enough to be dealt to threads that start late."""
        table = np.array(self.lines, dtype=np.int64).reshape(-1, 5)
        at = (table[:, 1] * table[:, 2]).cumsum() // _SHARE
        return np.split(table, np.flatnonzero(np.diff(at)) + 1)

    def scale_(self) -> None:
        """Multiply the matrices in place, by as many threads as torch uses."""
        if not self.lines:
            return
        kernel, left = kernels()[self.kept[0].dtype], deque(self.shares)

        def work() -> None:
            while left:
                with contextlib.suppress(IndexError):  # another thread took the last one
                    kernel(left.popleft())

        helpers = [_pool().submit(work) for _ in range(min(torch.get_num_threads(), len(left)) - 1)]
        work()
        for helper in helpers:
            if not helper.cancel():
                helper.result()


def _runs(tensor: Tensor, rows: Tensor, columns: Tensor) -> Iterator[tuple[int, ...]]:
    """Runs of rows as lines of the kernel's table."""
    m = math.prod(tensor.shape[1:])
    size, wide = tensor.element_size(), rows.element_size()
    step = max(1, _SHARE // max(1, m))
    for i in range(0, len(tensor), step):
        n = min(step, len(tensor) - i)
        yield tensor.data_ptr() + i * m * size, n, m, rows.data_ptr() + i * wide, columns.data_ptr()


@functools.cache
def kernels() -> dict[torch.dtype, Callable[[Any], None]]:
    """The kernel for each number type; none where there is no numba, or no folder that it may keep its code in."""
    try:
        from fxteleport.passes.kernel import bfloat16, float32, float64
    except (ImportError, RuntimeError):
        return {}
    return {torch.float32: float32, torch.float64: float64, torch.bfloat16: bfloat16}


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="fxteleport")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork, which Windows does not have
    os.register_at_fork(after_in_child=_pool.cache_clear)
