"""Equivariant: operations that are linear and treat every position alike.

Elementwise ones (identity, dropout, casts, neg) pass the map. Ones that mix positions along some axes (mean,
sum, average pooling, interpolation) need it constant along them. Nothing is rewritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxteleport.passes.domain.cob_map import IDENTITY, CobMap, reshape
from fxteleport.passes.rules import folds, forms, shape_functions
from fxteleport.passes.rules.axes import BY_DIM, FROM_THE_RIGHT
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.operand import Operand, carries
from fxteleport.passes.rules.registry import named, rule


@rule(
    *named(
        "clone contiguous detach to type type_as float double half bfloat16 cpu cuda alias_copy neg pos"
        " positive requires_grad dropout dropout1d dropout2d dropout3d feature_dropout conj resolve_conj"
        " resolve_neg lift_fresh long int short bool char byte deg2rad rad2deg to_dense to_sparse to_sparse_coo"
        " to_sparse_csr to_sparse_csc coalesce"
    ),
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    shape=shape_functions.same,
    along=folds.elementwise,
    form=forms.cast,
    axes=FROM_THE_RIGHT,
)  # fmt: skip
def elementwise(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    call.shape_only(*rest, *settings.values())
    if not carries(call.value):
        call.pin(input.map, "it is cast to a type without fractions")
        return IDENTITY
    return input.map


def axes_of(dim: Any, rank: int) -> list[int]:
    """The axes that a `dim` argument names; None and an empty list name all, and so does `unbiased` in its place."""
    if dim is None or isinstance(dim, bool) or dim in ((), []):
        return list(range(rank))
    return [d % rank for d in ([dim] if isinstance(dim, int) else dim)] if rank else []


def dropped(cob: CobMap, axes: Sequence[int], keepdim: bool) -> CobMap:
    """The map without axes that have size 1 in it."""
    if keepdim:
        return cob
    return cob.each(lambda s: s.squeeze(tuple(axes)))


@rule(*named("mean sum nanmean nansum"), shape=shape_functions.reduced, form=forms.reduced, axes=BY_DIM)
def reduced(call: Call, input: Operand, dim: Any = None, keepdim: bool = False, **settings: Any) -> CobMap:
    axes = axes_of(dim, input.rank)
    cob = call.constant(input.map, axes, "it is averaged or summed over these positions")
    return dropped(cob, axes, keepdim)


@rule(*named("_sparse_sum"))
def sparse_sum(call: Call, input: Operand, dim: Any = None, dtype: Any = None) -> CobMap:
    axes = axes_of(dim, input.rank)
    return dropped(call.constant(input.map, axes, "it is summed over these positions"), axes, keepdim=False)


@rule(*named("cumsum"), shape=shape_functions.same, axes=BY_DIM)
def accumulated(call: Call, input: Operand, dim: int, **settings: Any) -> CobMap:
    return call.constant(input.map, axes_of(dim, input.rank), "positions are added up")


@rule(*named("diff"))
def differences(
    call: Call, input: Operand, n: int = 1, dim: int = -1, prepend: Operand | None = None, append: Operand | None = None
) -> CobMap:
    if prepend is not None or append is not None:
        call.decline("something is put before or behind it")
    return call.constant(input.map, axes_of(dim, input.rank), "neighbours are subtracted")


def pooled(call: Call, input: Operand, axes: int) -> CobMap:
    """An operation that mixes the last `axes` axes."""
    over = range(input.rank - axes, input.rank)
    return call.constant(input.map, over, "positions are averaged")


@rule(
    *named("avg_pool1d adaptive_avg_pool1d"),
    nn.AvgPool1d,
    nn.AdaptiveAvgPool1d,
    shape=shape_functions.resampled,
    axes=FROM_THE_RIGHT,
)
def average_pool1d(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    return pooled(call, input, 1)


@rule(
    *named("avg_pool2d adaptive_avg_pool2d"),
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    shape=shape_functions.resampled,
    axes=FROM_THE_RIGHT,
)
def average_pool2d(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    return pooled(call, input, 2)


@rule(
    *named("avg_pool3d adaptive_avg_pool3d"),
    nn.AvgPool3d,
    nn.AdaptiveAvgPool3d,
    shape=shape_functions.resampled,
    axes=FROM_THE_RIGHT,
)
def average_pool3d(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    return pooled(call, input, 3)


@rule(*named("max_unpool1d"), nn.MaxUnpool1d)
def unpooled1d(call: Call, input: Operand, indices: Operand, *rest: Any, **settings: Any) -> CobMap:
    return pooled(call, input, 1)  # a value goes to a position of its channel that the run picks, among zeros


@rule(*named("max_unpool2d"), torch._C._nn.max_unpool2d, nn.MaxUnpool2d)
def unpooled2d(call: Call, input: Operand, indices: Operand, *rest: Any, **settings: Any) -> CobMap:
    return pooled(call, input, 2)


@rule(*named("max_unpool3d"), torch._C._nn.max_unpool3d, nn.MaxUnpool3d)
def unpooled3d(call: Call, input: Operand, indices: Operand, *rest: Any, **settings: Any) -> CobMap:
    return pooled(call, input, 3)


@rule(F.fold, nn.Fold)
def folded(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    """[..., channels * window, positions] -> [..., channels, height, width]: overlapping windows are added up."""
    channels, positions = call.value.shape[-3], input.rank - 1
    cob = call.constant(input.map, [positions], "windows overlap")
    apart = (*input.shape[:-2], channels, input.shape[-2] // channels, 1)
    flat = (*input.shape[:-2], input.shape[-2], 1)
    cob = cob.each(lambda s: reshape(s, flat, apart))
    return call.constant(cob, [positions], "windows overlap")


@rule(
    *named("interpolate upsample upsample_nearest upsample_bilinear"),
    nn.Upsample,
    nn.UpsamplingNearest2d,
    nn.UpsamplingBilinear2d,
    shape=shape_functions.resampled,
)
def interpolated(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    return pooled(call, input, input.rank - 2)


_KINDS = {"nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "trilinear3d", "bicubic2d", "lanczos2d_aa"}
_KINDS |= {f"nearest_exact{n}d" for n in (1, 2, 3)} | {"bilinear2d_aa", "bicubic2d_aa"}
_UPSAMPLINGS = [f"{start}upsample_{kind}" for kind in sorted(_KINDS) for start in ("", "_")]


@rule(*[getattr(torch._C._nn, name) for name in _UPSAMPLINGS if hasattr(torch._C._nn, name)])
def upsampled(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    """What `interpolate` calls, as ATen names it, one for each mode."""
    return pooled(call, input, input.rank - 2)


@rule(*named("grid_sample"))
def sampled(call: Call, input: Operand, grid: Operand, *rest: Any, **settings: Any) -> CobMap:
    call.pin(grid.map, "it says where to sample")
    return pooled(call, input, input.rank - 2)
