"""Layers with weights: linear, embedding, convolution, attention, recurrent."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fxteleport.passes.domain.size import Extent, plus, times
from fxteleport.passes.rules.shape_functions.sized import At, Shape, Sized


def recurrent(at: At, input: Any, *states: Any, **settings: Any) -> Any:
    """[steps, batch, features] or [batch, steps, features], with the layer's number of features.

    The last states are [layers * directions, batch, features], without a batch where the input has none.
    """
    output, states = at.value
    packed = isinstance(input, list)  # the data, and how many sequences each step has, with their order
    steps, *rest = input if packed else [input]
    if packed:
        batch = [at.sizes.fresh(_tensors(states)[0].shape[1])]
        shape = [[steps.sizes[0], output[0].shape[-1]], *(x.sizes if type(x) is Sized else None for x in rest)]
    else:
        batch = [steps.sizes[0 if at.target.batch_first else 1]] if len(steps.sizes) == 3 else []
        shape = [*steps.sizes[:-1], output.shape[-1]]
    last = [[t.shape[0], *batch, t.shape[-1]] for t in _tensors(states)]
    return [shape, last[0] if isinstance(states, Tensor) else last]


def _tensors(x: Any) -> list[Tensor]:
    return [x] if isinstance(x, Tensor) else list(x)


def linear(at: At, input: Sized, weight: Sized, *rest: Any, **settings: Any) -> Shape:
    """[..., in] -> [..., out]."""
    at.sizes.insist(input.sizes[-1], weight.sizes[1])
    return *input.sizes[:-1], weight.sizes[0]


def grouped_linear(at: At, input: Sized, weight: Sized, *rest: Any, **settings: Any) -> Shape | None:
    """Rows [n, in] against a stack [groups, in, out] -> [n, out]."""
    if (len(input.sizes), len(weight.sizes)) != (2, 3):
        return None
    at.sizes.insist(input.sizes[1], weight.sizes[1])
    return input.sizes[0], weight.sizes[2]


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
    """The values that `nn.MultiheadAttention` returns, and the attention weights, whose axes no rule needs."""
    values = [*query.sizes[:-1], at.value[0].shape[-1]]  # as many channels as the last weight has rows
    if at.value[1] is None:
        return [values, None]
    return [values, [at.sizes.fresh(n) for n in at.value[1].shape]]
