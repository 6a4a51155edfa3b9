"""Pooling and sampling, distances, and Fourier transforms."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from fxteleport.passes.graph.aten_twins.registry import Beside, twin


@twin("max_pool2d_with_indices")
def max_pool2d_with_indices(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Beside:
    given = input, kernel_size, stride or None, padding, dilation, ceil_mode
    return Beside(F.max_pool2d(*given), lambda: F.max_pool2d_with_indices(*given))


@twin("max_pool3d_with_indices")
def max_pool3d_with_indices(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Beside:
    given = input, kernel_size, stride or None, padding, dilation, ceil_mode
    return Beside(F.max_pool3d(*given), lambda: F.max_pool3d_with_indices(*given))


_INTERPOLATIONS, _PADDINGS = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")


@twin("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(input: Any, grid: Any, interpolation_mode: int, padding_mode: int, align_corners: bool) -> Any:
    return F.grid_sample(input, grid, _INTERPOLATIONS[interpolation_mode], _PADDINGS[padding_mode], align_corners)


@twin("_cdist_forward")
def cdist(x1: Any, x2: Any, p: float, compute_mode: int | None) -> Any:
    modes = ("use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist")
    return torch.cdist(x1, x2, p, modes[compute_mode or 0])


@twin("_pdist_forward")
def pdist(input: Any, p: float = 2.0) -> Any:
    return F.pdist(input, p)


_NORMALISATIONS = ("backward", "ortho", "forward")


@twin("_fft_r2c")
def fft_r2c(input: Any, dim: Any, normalization: int, onesided: bool) -> Any:
    fn = torch.fft.rfftn if onesided else torch.fft.fftn
    return fn(input, dim=tuple(dim), norm=_NORMALISATIONS[normalization])
