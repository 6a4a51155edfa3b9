"""Joining and padding: cat, stack, pad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxteleport.passes.domain.size import Extent, Size, plus
from fxteleport.passes.rules.shape_functions.sized import At, Repeated, Shape, Sized


def concatenated(at: At, tensors: Sequence[Sized], dim: int = 0, **settings: Any) -> Shape | None:
    """The sizes along one axis are added up; the others are the same, or it does not run."""
    given, tensors = tensors, [t for t in tensors if t.value.ndim == at.value.ndim]
    axis = dim % at.value.ndim
    total: Extent = 0
    for tensor in tensors:
        total = plus(total, tensor.sizes[axis])
    total = at.sizes.fresh(at.value.shape[axis]) if isinstance(given, Repeated) else total
    columns = list(zip(*(t.sizes for t in tensors), strict=True))
    for i, (first, *others) in enumerate(columns):
        for other in others if i != axis else ():
            at.sizes.insist(first, other)
    return [
        total if i == axis else next((n for n in column if type(n) is int), column[0])
        for i, column in enumerate(columns)
    ]


def stacked(at: At, tensors: Sequence[Sized], dim: int = 0, **settings: Any) -> Shape | None:
    """A new axis, as long as the list."""
    if at.name != "stack":
        return None
    axis = dim % at.value.ndim
    count = at.sizes.fresh(len(tensors)) if isinstance(tensors, Repeated) else len(tensors)
    return [*tensors[0].sizes[:axis], count, *tensors[0].sizes[axis:]]


def padded(at: At, input: Sized, pad: Sequence[Any], *rest: Any, **settings: Any) -> Shape | None:
    """Each axis with what is put beside it."""
    if isinstance(pad, int) or any(type(n) not in (int, Size) for n in pad):
        return None
    sizes = list(input.sizes)
    for i, n in enumerate(pad):
        axis = len(sizes) - 1 - i // 2
        sizes[axis] = plus(sizes[axis], n)
    return sizes
