"""Axis by axis: operations whose result has their operands' axes, or loses or resamples some."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fxteleport.passes.domain.size import Extent, Size
from fxteleport.passes.rules.shape_functions.sized import At, Shape, Sized


def same(at: At, input: Any, *rest: Any, **settings: Any) -> Any:
    """The first tensor's shape, for each result."""
    if type(input) is not Sized:
        return None
    return [input.sizes for _ in at.value] if isinstance(at.value, (tuple, list)) else input.sizes


def copied(at: At, input: Sized, src: Sized, *rest: Any, **settings: Any) -> Shape:
    """The shape of what is written over: each axis of the other tensor is of size 1, or the same."""
    for own, other in zip(reversed(input.sizes), reversed(src.sizes), strict=False):
        if type(other) is int and other != 1:
            at.sizes.insist(own, other)
    return input.sizes


def copied_along(at: At, input: Sized, dim: int, index: Any, source: Any, *rest: Any, **settings: Any) -> Shape:
    """The shape of what is written into along one axis; the others are those of the other tensor, or it fails."""
    if type(source) is Sized and len(source.sizes) == len(input.sizes):
        for i, (own, other) in enumerate(zip(input.sizes, source.sizes, strict=True)):
            if i != dim % len(input.sizes) and type(other) is int:
                at.sizes.insist(own, other)
    return input.sizes


def broadcast(at: At, *operands: Any, **settings: Any) -> Shape:
    """The shape to which the tensors among the arguments are broadcast."""
    shapes = [x.sizes for x in (*operands, *settings.values()) if type(x) is Sized]
    if len(shapes) == 1 or all(s == shapes[0] for s in shapes[1:]):
        return shapes[0]
    columns = itertools.zip_longest(*map(reversed, shapes), fillvalue=1)
    return [joint(at, column) for column in columns][::-1]


def all_broadcast(at: At, *tensors: Any) -> list[Shape]:
    """The one shape of several results."""
    shape = broadcast(at, *(tensors[0] if isinstance(tensors[0], list) else tensors))
    return [shape for _ in at.value]


def joint(at: At, column: Sequence[Extent]) -> Extent:
    """The size of axes that are broadcast together: they are equal, but for those of size 1."""
    others = [n for n in dict.fromkeys(column) if n != 1]
    known = [n for n in others if type(n) is int]
    if known or not others:
        for n in others:
            at.sizes.meet(n, known[0])
        return known[0] if known else 1
    if len(others) == 1:
        return others[0]
    return at.sizes.named(("broadcast", frozenset(others)), max(map(at.sizes.value, column)))


def reduced(at: At, input: Sized, *rest: Any, **settings: Any) -> Any:
    """A reduction over one axis, several or all: the axes are gone, or have size 1."""
    example = at.value[0] if isinstance(at.value, (tuple, list)) else at.value
    if not isinstance(example, Tensor):
        return None
    dim: Any = settings.get(
        "dim", settings.get("axis", next((x for x in rest if not isinstance(x, (float, str))), None))
    )
    rank = len(input.sizes)
    none = dim is None or isinstance(dim, bool) or dim in ((), [])
    axes = set(range(rank)) if none else {d % rank for d in ([dim] if isinstance(dim, int) else dim)} if rank else set()
    kept = example.ndim == rank
    sizes = [1 if i in axes else n for i, n in enumerate(input.sizes) if kept or i not in axes]
    return [sizes for _ in at.value] if isinstance(at.value, (tuple, list)) else sizes


def resampled(at: At, input: Sized, *how: Any, **settings: Any) -> Any:
    """Pooling and interpolation: an unknown number of positions becomes another unknown number."""
    example = at.value[0] if isinstance(at.value, (tuple, list)) else at.value
    name = type(at.target).__name__ if isinstance(at.target, nn.Module) else at.name
    digit = re.search(r"(\d)d", name)
    kept = len(input.sizes) - int(digit[1]) if digit else 2
    wanted = None
    if "daptive" in name or digit is None:
        key = "output_size" if digit else "size"
        wanted = getattr(at.target, key, None) or settings.get(key, how[0] if how else None)
    ends = wanted if isinstance(wanted, (tuple, list)) else [wanted] * (example.ndim - kept)
    sizes = list(input.sizes[:kept])
    for m, n, end in zip(input.sizes[kept:], example.shape[kept:], ends, strict=True):
        known = type(m) is int and digit is not None
        sizes.append(n if known or type(end) is int else end if type(end) is Size else at.sizes.fresh(n))
    return [sizes for _ in at.value] if isinstance(at.value, (tuple, list)) else sizes


OF_INPUTS = frozenset({same, broadcast})  # they read the call's tensors alone: its arguments need not be bound
