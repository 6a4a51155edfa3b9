"""Layers with weights: linear, embedding, convolution, attention, recurrent."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fxteleport.passes.domain.size import Extent, plus, times
from fxteleport.passes.rules.shape_functions.sized import At, Shape, Sized


def recurrent(at: At, input: Any, *states: Any, **settings: Any) -> Any:
    """The steps [steps, batch, features] or [batch, steps, features] stay, and the features are the layer's."""
    steps, example = (input, at.value[0]) if isinstance(at.value, (tuple, list)) else (None, at.value)
    if type(steps) is not Sized:
        return None
    last = [[at.sizes.fresh(n) for n in t.shape] for t in _tensors(at.value[1])]
    return [[*steps.sizes[:-1], example.shape[-1]], last[0] if isinstance(at.value[1], Tensor) else last]


def _tensors(x: Any) -> list[Tensor]:
    return [x] if isinstance(x, Tensor) else list(x)


def linear(at: At, input: Sized, weight: Sized, *rest: Any, **settings: Any) -> Shape:
    """[..., in] -> [..., out]."""
    at.sizes.insist(input.sizes[-1], weight.sizes[1])
    return *input.sizes[:-1], weight.sizes[0]


def embedding(at: At, input: Sized, weight: Sized, *rest: Any, **settings: Any) -> Shape:
    """[...] -> [..., columns]."""
    return *input.sizes, weight.sizes[1]


def convolution(
    at: At, input: Sized, weight: Sized, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: Any = 1, **settings: Any,
) -> Shape:  # fmt: skip
    """[..., in, *positions] -> [..., out, *positions]; equal convolutions leave equally many positions."""
    first = len(input.sizes) - (len(weight.sizes) - 2)
    at.sizes.insist(input.sizes[first - 1], times(weight.sizes[1], groups))
    count = len(input.sizes) - first
    ways = zip(weight.sizes[2:], *(_each(x, count) for x in (stride, padding, dilation)), strict=True)
    positions = [
        n if type(m) is int else windows(at, m, n, *way)
        for m, n, way in zip(input.sizes[first:], at.value.shape[first:], ways, strict=True)
    ]
    return *input.sizes[: first - 1], weight.sizes[0], *positions


def _each(setting: Any, count: int) -> Sequence[Any]:
    """A setting for each axis, where one may stand for all."""
    return [setting] * count if isinstance(setting, (int, str)) else setting * count if len(setting) == 1 else setting


def windows(at: At, size: Extent, example: int, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Extent:
    """How many windows fit into an axis."""
    if padding == "same":
        return size
    if any(type(x) is not int for x in (kernel, stride, dilation)):
        return at.sizes.named(("windows", size, kernel, stride, padding, dilation), example)
    beside = 0 if padding == "valid" else 2 * padding
    room = plus(size, beside - dilation * (kernel - 1) - 1)
    return plus(at.sizes.apply(operator.floordiv, (room, stride), example - 1), 1)


def attention_layer(at: At, query: Sized, *rest: Any, **settings: Any) -> Any:
    """What `nn.MultiheadAttention` gives: the values, and the weights, whose axes nobody needs."""
    values = [*query.sizes[:-1], at.value[0].shape[-1]]  # as many channels as the last weight has rows
    if at.value[1] is None:
        return [values, None]
    return [values, [at.sizes.fresh(n) for n in at.value[1].shape]]
