"""Indexing by numbers, slices, tensors and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fxteleport.passes.domain.size import Extent, Size
from fxteleport.passes.rules.shape_functions.elementwise import broadcast
from fxteleport.passes.rules.shape_functions.sized import At, Shape, Sized


def getitem(at: At, input: Sized, index: Any, *rest: Any) -> Shape | None:
    """`x[index]`: numbers take an axis away, slices shorten one, tensors put theirs in its place."""
    items = index if isinstance(index, tuple) else (index,)
    if any(isinstance(i, (list, bool)) for i in items):
        return None
    items = tuple(_counted(i) if type(i) is Sized else i for i in items)
    named = sum(item.axes if type(item) is _Mask else item is not None and item is not ... for item in items)
    if ... not in [i if i is ... else 0 for i in items]:
        items = (*items, ...)
    sizes: list[Extent] = []
    picked: list[tuple[int, Sized]] = []  # where in the result, what
    axis = 0
    for item in items:
        if item is None:
            sizes.append(1)
        elif item is ...:
            count = len(input.sizes) - named
            sizes += input.sizes[axis : axis + count]
            axis += count
        elif isinstance(item, slice):
            sizes.append(_sliced(at, input.sizes[axis], item))
            axis += 1
        elif type(item) is Sized:
            if item.value.dtype in (torch.bool, torch.uint8):
                return None  # how many it picks depends on the data
            picked.append((len(sizes), item))
            axis += 1
        elif type(item) is _Mask:
            if len(items) > 2 and any(type(i) in (int, Size, Sized) for i in items):
                return None
            sizes.append(item.count)
            axis += item.axes
        else:
            axis += 1
    if not picked:
        return sizes
    if any(type(i) in (int, Size) for i in items):  # numbers count as tensors where there are tensors
        return None
    together = all(where == picked[0][0] for where, _ in picked) and _adjacent(items)
    at_front = picked[0][0] if together else 0
    return [*sizes[:at_front], *broadcast(at, *(item for _, item in picked)), *sizes[at_front:]]


@dataclass(frozen=True, slots=True)
class _Mask:
    """A mask with known values: how many positions it picks, and the number of its axes."""

    count: int
    axes: int


def _counted(item: Sized) -> Sized | _Mask:
    known = item.value.dtype is torch.bool and not item.value.is_meta and not item.uncertain
    return _Mask(int(item.value.sum()), item.value.ndim) if known else item


def _adjacent(items: Sequence[Any]) -> bool:
    """True where the tensors of an index follow each other."""
    where = [i for i, item in enumerate(items) if type(item) is Sized]
    return where[-1] - where[0] == len(where) - 1


def _sliced(at: At, size: Extent, item: slice) -> Extent:
    if item.step in (None, 1) and item.start in (None, 0) and (item.stop is None or item.stop == size):
        return size
    bounds = (item.start, item.stop, item.step)
    if type(size) is int and all(b is None or type(b) is int for b in bounds):
        return len(range(*item.indices(size)))
    if item.step in (None, 1):
        if item.start in (None, 0) and item.stop == 0:
            return 0
        if item.start == -1 and item.stop is None:
            return 1  # or 0 for an empty axis, where any CoB is right
    example = range(at.sizes.value(size))[slice(*map(at.sizes.value, bounds))]
    return at.sizes.named(("slice", size, *bounds), len(example))
