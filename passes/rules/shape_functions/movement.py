"""Movement along one axis: narrowed, selected, split, repeated, unfolded."""

from __future__ import annotations

from typing import Any

from fxteleport.passes.domain.size import Extent, Size, times
from fxteleport.passes.rules.shape_functions.indexing import getitem
from fxteleport.passes.rules.shape_functions.layers import windows
from fxteleport.passes.rules.shape_functions.sized import At, Shape, Sized


def moved(at: At, input: Sized, *rest: Any, **settings: Any) -> Any:
    """The operations that pick, repeat or turn positions, by name."""
    if at.name in ("flip", "fliplr", "flipud", "roll"):
        return input.sizes
    function = _MOVED.get(at.name)
    return None if function is None else function(at, input, *rest, **settings)


def _narrowed(at: At, input: Sized, dim: int, start: Any, length: Any) -> Shape:
    return _replaced(input.sizes, dim, length)


def _replaced(sizes: Shape, dim: int, size: Extent) -> Shape:
    out = list(sizes)
    out[dim] = size
    return out


def _selected(at: At, input: Sized, dim: int, index: Any) -> Shape:
    axis = dim % len(input.sizes)
    return [n for i, n in enumerate(input.sizes) if i != axis]


def _picked(at: At, input: Sized, dim: int, index: Sized) -> Shape:
    return _replaced(input.sizes, dim, index.sizes[0] if index.sizes else 1)


def _gathered(at: At, input: Sized, dim: int, index: Sized, *rest: Any, **settings: Any) -> Shape:
    return index.sizes


def _unbound(at: At, input: Sized, dim: int = 0) -> list[Shape]:
    return [_selected(at, input, dim, 0) for _ in at.value]


def _parted(at: At, input: Sized, how: Any, dim: int = 0) -> list[Shape]:
    """split, chunk, tensor_split: `how` is a number, or the sizes of the parts."""
    if isinstance(how, (list, tuple)) and "split" in at.name and at.name != "tensor_split":
        return [_replaced(input.sizes, dim, n) for n in how]
    key = (input.sizes[dim], tuple(how) if isinstance(how, list) else how)
    return [_replaced(input.sizes, dim, at.axis(t.shape[dim], (*key, i))) for i, t in enumerate(at.value)]


def _repeated(at: At, input: Sized, *counts: Any, **settings: Any) -> Shape | None:
    counts = (*counts, *settings.values())
    given = counts[0] if len(counts) == 1 and isinstance(counts[0], (list, tuple)) else counts
    if any(type(n) not in (int, Size) for n in given):
        return None
    rank = max(len(given), len(input.sizes))
    wide = [*[1] * (rank - len(input.sizes)), *input.sizes]
    return [times(n, m) for n, m in zip(wide, [*[1] * (rank - len(given)), *given], strict=True)]


def _unfolded(at: At, input: Sized, dimension: Any, size: Any = None, step: Any = None) -> Shape | None:
    """`x.unfold(axis, size, step)`: windows of an axis, their elements behind the last axis; not `F.unfold`."""
    if not isinstance(at.target, str) or any(type(n) is not int for n in (dimension, size, step)):
        return None
    axis = dimension % len(input.sizes)
    count = windows(at, input.sizes[axis], at.value.shape[axis], size, step, 0, 1)
    return [*_replaced(input.sizes, axis, count), size]


_MOVED: dict[str, Any] = {
    "unfold": _unfolded,
    "getitem": getitem,
    "narrow": _narrowed,
    "select": _selected,
    "index_select": _picked,
    "gather": _gathered,
    "unbind": _unbound,
    "repeat": _repeated,
    "tile": _repeated,
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split"), _parted),
}
