"""Shape functions: the axes of a result as sizes, for families of operations.

A shape function is called as the rule of its operation is (`registry.py`), with an `At` in place of the call and
a `Sized` for each tensor. It gives the sizes of the result, a list of them for several, or None where it does not know:
then the operation is run on other sizes, and they are read off (`sizing.probed`).
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.domain.size import Extent, Size, Sizes, plus, product, times
from fxteleport.passes.graph.ops import name_of

Shape = Sequence[Extent]


@dataclass(frozen=True, slots=True)
class Sized:
    """A tensor with its axes as sizes.

    `uncertain` is true where its values are known in the example, and come from sizes: other inputs give others.
    """

    value: Tensor
    sizes: tuple[Extent, ...]
    uncertain: bool = False


class Repeated(list[Any]):
    """The items of a list of which other inputs may have more or fewer: `[x] * n`."""


@dataclass(frozen=True, slots=True)
class At:
    """The node whose shape is asked for: its target (or module), its value in the example, the sizes made so far."""

    target: Any
    value: Any
    sizes: Sizes

    @property
    def name(self) -> str:
        """The name that all spellings of the operation share."""
        return name_of(self.target)

    def axis(self, n: int, key: Any) -> Extent:
        """An axis of the result that is a function of others: known where they are."""
        return self.sizes.named((self.target, key), n) if _unknown(key) else n


def _unknown(x: Any) -> bool:
    return type(x) is Size or (type(x) is tuple and any(map(_unknown, x)))


# -- axis by axis --------------------------------------------------------------------------------------


def same(at: At, input: Any, *rest: Any, **settings: Any) -> Any:
    """The first tensor's shape, for each result."""
    if type(input) is not Sized:
        return None
    return [input.sizes for _ in at.value] if isinstance(at.value, (tuple, list)) else input.sizes


def broadcast(at: At, *operands: Any, **settings: Any) -> Shape:
    """The shape to which the tensors among the arguments are broadcast."""
    shapes = [x.sizes for x in (*operands, *settings.values()) if type(x) is Sized]
    if len(shapes) == 1 or all(s == shapes[0] for s in shapes[1:]):
        return shapes[0]
    columns = itertools.zip_longest(*map(reversed, shapes), fillvalue=1)
    return [_joint(at, column) for column in columns][::-1]


def all_broadcast(at: At, *tensors: Any) -> list[Shape]:
    """The one shape of several results."""
    shape = broadcast(at, *(tensors[0] if isinstance(tensors[0], list) else tensors))
    return [shape for _ in at.value]


def _joint(at: At, column: Sequence[Extent]) -> Extent:
    """The size of axes that meet: they are equal, but for those of size 1."""
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
    """An axis, several or all are gone, or of size 1; they are found by their number in the example."""
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
    """Pooling and interpolation: positions, of which other numbers are left where theirs are unknown."""
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


OF_INPUTS = frozenset({same, broadcast})  # nothing but the call's tensors decides: no argument need be put in order


def recurrent(at: At, input: Any, *states: Any, **settings: Any) -> Any:
    """The steps [steps, batch, features] or [batch, steps, features] stay, and the features are the layer's."""
    steps, example = (input, at.value[0]) if isinstance(at.value, (tuple, list)) else (None, at.value)
    if type(steps) is not Sized:
        return None
    last = [[at.sizes.fresh(n) for n in t.shape] for t in _tensors(at.value[1])]
    return [[*steps.sizes[:-1], example.shape[-1]], last[0] if isinstance(at.value[1], Tensor) else last]


def _tensors(x: Any) -> list[Tensor]:
    return [x] if isinstance(x, Tensor) else list(x)


# -- weights -------------------------------------------------------------------------------------------


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
        n if type(m) is int else _windows(at, m, n, *way)
        for m, n, way in zip(input.sizes[first:], at.value.shape[first:], ways, strict=True)
    ]
    return *input.sizes[: first - 1], weight.sizes[0], *positions


def _each(setting: Any, count: int) -> Sequence[Any]:
    """A setting for each axis, where one may stand for all."""
    return [setting] * count if isinstance(setting, (int, str)) else setting * count if len(setting) == 1 else setting


def _windows(at: At, size: Extent, example: int, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Extent:
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


# -- products ------------------------------------------------------------------------------------------


def matmul(at: At, input: Sized, mat2: Sized, *rest: Any, **settings: Any) -> Shape | None:
    """[..., n, k] x [..., k, m] -> [..., n, m]."""
    a, b = (mat2.sizes, input.sizes) if at.target == "__rmatmul__" else (input.sizes, mat2.sizes)
    if len(a) < 2 or len(b) < 2:
        return None
    at.sizes.insist(a[-1], b[-2])
    columns = itertools.zip_longest(reversed(a[:-2]), reversed(b[:-2]), fillvalue=1)
    return *[_joint(at, column) for column in columns][::-1], a[-2], b[-1]


def attention(at: At, query: Sized, key: Sized, value: Sized, *rest: Any, **settings: Any) -> Shape:
    """Queries [..., l, e] over values [..., s, v] -> [..., l, v]."""
    at.sizes.insist(query.sizes[-1], key.sizes[-1])
    return *query.sizes[:-1], value.sizes[-1]


def einsum(at: At, equation: Any, *tensors: Any) -> Shape | None:
    """A size for each letter of the equation."""
    if not isinstance(equation, str) or "->" not in equation or "..." in equation:
        return None
    left, _, right = equation.replace(" ", "").partition("->")
    letters: dict[str, Extent] = {}
    for term, tensor in zip(left.split(","), tensors, strict=True):
        for letter, n in zip(term, tensor.sizes, strict=True):
            if type(letters.setdefault(letter, n)) is not int or letters[letter] == 1:
                at.sizes.insist(letters[letter], n) if n != 1 and letters[letter] != 1 else None
                letters[letter] = n if (type(n) is int and n != 1) or letters[letter] == 1 else letters[letter]
    return [letters[letter] for letter in right]


# -- movement ------------------------------------------------------------------------------------------


def reshaped(at: At, input: Sized, *rest: Any, **settings: Any) -> Shape | None:
    """view, reshape, flatten, unflatten, squeeze, unsqueeze and their like."""
    name, old, shape = at.name, list(input.sizes), at.value.shape
    if isinstance(at.target, (nn.Flatten, nn.Unflatten)):
        flat = isinstance(at.target, nn.Flatten)
        name = "flatten" if flat else "unflatten"
        rest = (at.target.start_dim, at.target.end_dim) if flat else (at.target.dim, at.target.unflattened_size)
    given = [*rest, *settings.values()]
    if name in ("view", "reshape"):
        wanted = given[0] if len(given) == 1 and isinstance(given[0], (list, tuple)) else given
        if any(type(n) not in (int, Size) for n in wanted):
            return None
        return _completed(at, product(old), wanted, shape)
    if name in ("view_as", "reshape_as"):
        return list(given[0].sizes)
    if name in ("flatten", "ravel"):
        start, end = [*given, 0, -1][:2] if len(given) != 1 else (given[0], -1)
        rank = max(len(old), 1)
        start, end = start % rank, end % rank
        return [*old[:start], product(old[start : end + 1]), *old[end + 1 :]] if old else [1]
    if name == "unflatten":
        axis, sizes = given[0] % len(old), given[1]
        inner = _completed(at, old[axis], sizes, shape[axis : axis + len(sizes)])
        return [*old[:axis], *inner, *old[axis + 1 :]]
    if name == "unsqueeze":
        axis = given[0] % (len(old) + 1)
        return [*old[:axis], 1, *old[axis:]]
    if name == "squeeze":
        dims = given[0] if given else range(len(old))
        axes = {d % len(old) for d in ([dims] if isinstance(dims, int) else dims)} if old else set()
        return [n for i, n in enumerate(old) if not (i in axes and input.value.shape[i] == 1)]
    return None


def _completed(at: At, count: Extent, wanted: Sequence[Extent], shape: Sequence[int]) -> Shape:
    """Sizes of which one may be -1: what is left of `count` elements."""
    missing = [i for i, n in enumerate(wanted) if n == -1]
    if not missing:
        at.sizes.insist(count, product(wanted))
        return list(wanted)
    (i,) = missing
    return [*wanted[:i], at.sizes.share(count, [n for n in wanted if n != -1], shape[i]), *wanted[i + 1 :]]


def permuted(at: At, input: Sized, *rest: Any, **settings: Any) -> Shape | None:
    """The operation itself, on axes of sizes that tell them apart."""
    if any(type(x) in (Size, Sized) for x in (*rest, *settings.values())):
        return None
    tagged = torch.empty([i + 2 for i in range(len(input.sizes))], device="meta")
    if at.target is getattr:
        moved = getattr(tagged, *rest)
    else:
        fn = getattr(tagged, at.target) if isinstance(at.target, str) else None
        moved = fn(*rest, **settings) if fn is not None else at.target(tagged, *rest, **settings)
    return [input.sizes[n - 2] for n in moved.shape]


def expanded(at: At, input: Sized, *rest: Any, **settings: Any) -> Shape | None:
    """expand, expand_as, broadcast_to."""
    given = [*rest, *settings.values()]
    if len(given) == 1 and type(given[0]) is Sized:  # expand_as
        return given[0].sizes
    wanted = given[0] if len(given) == 1 and isinstance(given[0], (list, tuple)) else given
    if any(type(n) not in (int, Size) for n in wanted):
        return None
    behind = [1] * (len(wanted) - len(input.sizes)) + list(input.sizes)
    return [m if n == -1 else n for m, n in zip(behind, wanted, strict=True)]


def restrided(at: At, input: Sized, size: Any, *rest: Any, **settings: Any) -> Shape | None:
    """as_strided: the sizes are given."""
    return list(size) if all(type(n) in (int, Size) for n in size) else None


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
                return None  # how many it picks, the run finds out
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
    """A mask that is known: how many positions it picks, of how many axes."""

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
            return 1  # of an axis without positions nothing is left, and of nothing any CoB is right
    example = range(at.sizes.value(size))[slice(*map(at.sizes.value, bounds))]
    return at.sizes.named(("slice", size, *bounds), len(example))


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
    count = _windows(at, input.sizes[axis], at.value.shape[axis], size, step, 0, 1)
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


def concatenated(at: At, tensors: Sequence[Sized], dim: int = 0, **settings: Any) -> Shape | None:
    """The sizes along one axis are added up."""
    given, tensors = tensors, [t for t in tensors if t.value.ndim == at.value.ndim]
    axis = dim % at.value.ndim
    total: Extent = 0
    for tensor in tensors:
        total = plus(total, tensor.sizes[axis])
    total = at.sizes.fresh(at.value.shape[axis]) if isinstance(given, Repeated) else total
    columns = list(zip(*(t.sizes for t in tensors), strict=True))
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


def made(at: At, *given: Any, **settings: Any) -> Shape | None:
    """zeros, ones, new_zeros and their like: the sizes are given as numbers, or those of a tensor are taken."""
    given = given if not given or type(given[0]) is not Sized or not at.name.startswith("new_") else given[1:]
    if given and type(given[0]) is Sized:
        return given[0].sizes
    wanted = given[0] if given and isinstance(given[0], (list, tuple)) else given
    wanted = settings.get("size", wanted)
    rank = at.value.ndim
    wanted = list(wanted)[:rank] if isinstance(wanted, (list, tuple)) else [wanted]
    return wanted if len(wanted) == rank and all(type(n) in (int, Size) for n in wanted) else None


def ranged(at: At, *given: Any, **settings: Any) -> Shape | None:
    """arange of whole numbers: as many as there are from the first to the last."""
    numbers = [x for x in given if type(x) in (int, Size)]
    if len(numbers) != len(given) or not 0 < len(numbers) < 3:
        return None
    return [plus(numbers[-1], numbers[0], -1) if len(numbers) == 2 else numbers[0]]
