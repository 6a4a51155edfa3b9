"""Positively homogeneous: f(t x) = t f(x) for t > 0 (relu, leaky relu, abs, max pooling).

A positive CoB passes. A negative one needs the wrapped operation s f(s x) with s its sign, so `mode="weights"`
requires a positive one. Those that pick one of several positions need the map constant over them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from fxteleport.passes.domain.cob_map import IDENTITY, CobMap
from fxteleport.passes.rules import forms, shape_functions
from fxteleport.passes.rules.axes import BY_DIM, FROM_THE_RIGHT
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.equivariant import axes_of, dropped
from fxteleport.passes.rules.joining import joined
from fxteleport.passes.rules.operand import Operand
from fxteleport.passes.rules.registry import named, rule


def signed(call: Call, before: CobMap, after: CobMap | None = None) -> CobMap:
    """The output map of s f(s x); `after` where the output's axes differ from the input's."""
    after = before if after is None else after
    if call.full and isinstance(call.value, torch.Tensor):
        call.wrap(before, after, "sign")
    else:
        call.positive(before, "a negative CoB would change this operation")
    return after


@rule(
    *named("relu leaky_relu abs rrelu"),
    nn.ReLU, nn.LeakyReLU, nn.RReLU,
    shape=shape_functions.same,
    form=forms.kept,
    axes=FROM_THE_RIGHT,
)  # fmt: skip
def rectify(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    return signed(call, input.map)


@rule(*named("prelu"), nn.PReLU, shape=shape_functions.same)
def prelu(call: Call, input: Operand, weight: Operand) -> CobMap:
    call.require(weight, CobMap(), "a slope has no scale of its own")
    return signed(call, input.map)


def pools(axes: int) -> list[Any]:
    """Every spelling of max pooling over so many axes."""
    name = f"max_pool{axes}d"
    return named(f"{name} {name}_with_indices adaptive_{name} adaptive_{name}_with_indices")


def picked(call: Call, input: Operand, axes: int) -> Any:
    """Max pooling over the last `axes` axes."""
    over = range(input.rank - axes, input.rank)
    cob = signed(call, call.constant(input.map, over, "the largest of these positions is taken"))
    return [cob, None] if isinstance(call.value, tuple) else cob


@rule(
    *named("max_pool1d adaptive_max_pool1d max_pool1d_with_indices adaptive_max_pool1d_with_indices"),
    nn.MaxPool1d,
    nn.AdaptiveMaxPool1d,
    shape=shape_functions.resampled,
    axes=FROM_THE_RIGHT,
)
def max_pool1d(call: Call, input: Operand, *rest: Any, **settings: Any) -> Any:
    return picked(call, input, 1)


@rule(
    *named("max_pool2d adaptive_max_pool2d max_pool2d_with_indices adaptive_max_pool2d_with_indices"),
    nn.MaxPool2d,
    nn.AdaptiveMaxPool2d,
    shape=shape_functions.resampled,
    axes=FROM_THE_RIGHT,
)
def max_pool2d(call: Call, input: Operand, *rest: Any, **settings: Any) -> Any:
    return picked(call, input, 2)


@rule(
    *named("max_pool3d adaptive_max_pool3d max_pool3d_with_indices adaptive_max_pool3d_with_indices"),
    nn.MaxPool3d,
    nn.AdaptiveMaxPool3d,
    shape=shape_functions.resampled,
    axes=FROM_THE_RIGHT,
)
def max_pool3d(call: Call, input: Operand, *rest: Any, **settings: Any) -> Any:
    return picked(call, input, 3)


_EXACT_ORDERS = (None, 1, 2, math.inf, -math.inf, "fro")  # of sums, maxima and square roots alone


@rule(
    *named("norm"),
    torch.linalg.norm,
    torch.linalg.vector_norm,
    shape=shape_functions.reduced,
    form=forms.reduced,
    axes=BY_DIM,
)
def vector_norm(
    call: Call, input: Operand, p: Any = None, dim: Any = None, keepdim: bool = False, **settings: Any
) -> CobMap:  # fmt: skip
    order = call.kwargs.get("ord", p)
    if order == 0:
        call.decline("it counts what is not zero")
    axes = axes_of(dim, input.rank)
    of_matrix = call.node.target is torch.linalg.norm and len(axes) == 2
    cob = call.constant(input.map, axes, "these positions are measured together")
    after = dropped(cob, axes, keepdim)
    if order in _EXACT_ORDERS and not (of_matrix and order == 2):
        return signed(call, cob, after)
    # Homogeneous but for its rounding, which a power of two does not keep: that of another root than the square root,
    # which IEEE 754 rounds correctly (of 4^k x it is 2^k times that of x), or of singular values, which are iterated.
    if not call.full:
        call.pin(cob, "its root would be rounded another way")
        return IDENTITY
    call.wrap(cob, after)
    return after


@rule(*named("std"), shape=shape_functions.reduced, form=forms.reduced, axes=BY_DIM)
def deviation(call: Call, input: Operand, dim: Any = None, *rest: Any, **settings: Any) -> CobMap:
    return vector_norm(call, input, dim=dim, keepdim=call.value.ndim == input.rank)  # type: ignore[no-any-return]


@rule(*named("max min"), axes=BY_DIM)
def largest(call: Call, input: Operand, dim: Any = None, keepdim: bool = False, other: Operand | None = None) -> Any:
    other = dim if isinstance(dim, Operand) else other  # torch.max(a, b)
    if other is not None:
        return maximum(call, input, other)
    axes = axes_of(dim, input.rank)
    cob = call.constant(input.map, axes, "the largest of these positions is taken")
    after = signed(call, cob, dropped(cob, axes, keepdim))
    return after if isinstance(call.value, torch.Tensor) else [after, None]


@rule(*named("maximum minimum fmax fmin hypot"), shape=shape_functions.broadcast, axes=FROM_THE_RIGHT)
def maximum(call: Call, input: Operand, other: Operand) -> CobMap:
    """The larger of two: homogeneous in both, so a negative CoB is excluded rather than wrapped twice."""
    cob = joined(call, [input, other], "they are compared, or measured together")
    call.positive(cob, "a negative CoB would change this operation")
    return cob


@rule(*named("amax amin"), shape=shape_functions.reduced, form=forms.reduced, axes=BY_DIM)
def extreme(call: Call, input: Operand, dim: Any = (), keepdim: bool = False) -> CobMap:
    axes = axes_of(dim, input.rank)
    cob = call.constant(input.map, axes, "the largest of these positions is taken")
    return signed(call, cob, dropped(cob, axes, keepdim))


@rule(*named("median nanmedian"), shape=shape_functions.reduced, axes=BY_DIM)
def middle(call: Call, input: Operand, dim: Any = None, keepdim: bool = False) -> Any:
    """Of an even number it is the lower of two: a negative CoB would take the upper one."""
    axes = axes_of(dim, input.rank)
    cob = call.constant(input.map, axes, "the middle one of these positions is taken")
    call.positive(cob, "a negative CoB would change this operation")
    after = dropped(cob, axes, keepdim)
    return after if isinstance(call.value, torch.Tensor) else [after, None]


@rule(*named("cummax cummin"), shape=shape_functions.same, axes=BY_DIM)
def running(call: Call, input: Operand, dim: int) -> Any:
    cob = call.constant(input.map, axes_of(dim, input.rank), "the largest so far of these positions is taken")
    call.positive(cob, "a negative CoB would change this operation")
    return [cob, None]
