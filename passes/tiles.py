"""Matrices on a GPU times the factors of their rows and of their columns: all in one launch.

torch needs a launch for each factor of each tensor, and as many passes over memory. The kernel that needs one of each
is compiled by Triton, which comes with torch's builds for GPUs; where it does not work, nothing is a matrix to it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

Line = tuple[int, int, int, int, int]  # of a kernel's table: the addresses of a matrix, n, m, those of its factors
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Tiles:
    """Tables of matrices of one number type on one device, as the kernel takes them."""

    def __init__(self, lines: Sequence[Line], dtype: torch.dtype, device: torch.device) -> None:
        from fxteleport.passes import gpu_kernel

        table = np.array(lines, np.int64).reshape(-1, 5)
        counts = -(-(table[:, 1] * table[:, 2]) // gpu_kernel.TILE)
        which = np.repeat(np.arange(len(table)), counts)
        place = np.arange(len(which)) - np.repeat(counts.cumsum() - counts, counts)
        self._matrices = torch.from_numpy(table).to(device)
        self._tiles = torch.from_numpy(np.stack([which, place], 1).astype(np.int32)).to(device)
        self._dtype, self._aligned = dtype, not (table[:, 0] % gpu_kernel.ALIGNED).any()
        self._launch: Any = gpu_kernel.launch

    def scale_(self) -> None:
        """Multiply the matrices in place."""
        if len(self._tiles):
            with torch.cuda.device_of(self._tiles):
                self._launch(self._matrices, self._tiles, self._dtype, self._aligned)


@functools.cache
def works(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel multiplies this number type on this device: it is tried on one number."""
    number, factor = torch.ones((), dtype=dtype, device=device), torch.full((), 2, device=device)
    factor = factor.to(torch.float64 if dtype == torch.float64 else torch.float32)
    try:
        Tiles([(number.data_ptr(), 1, 1, factor.data_ptr(), 0)], dtype, device).scale_()
        return bool(number == 2)
    except Exception:  # no Triton, no compiler for its launcher, a number type that this device has not, ...
        return False
