"""Movement: operations that only move elements.

The operation itself runs on the symbols, expanded with stride 0 to the tensor's shape; then axes that turn out
constant are dropped. Every element keeps its CoB, so nothing is constrained and nothing is rewritten. Padding
with zeros brings in structural zeros, which any CoB fits.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxteleport.passes.domain.cob_map import ANY, IDENTITY, ONE, CobMap, compress, reshape, together
from fxteleport.passes.domain.size import Extent, Size, cuts, product
from fxteleport.passes.graph.ops import setitem
from fxteleport.passes.rules import folds, forms, shape_functions
from fxteleport.passes.rules.axes import BY_DIM, FROM_THE_RIGHT
from fxteleport.passes.rules.call import Call, Operand, Unknown, carries
from fxteleport.passes.rules.equivariant import axes_of
from fxteleport.passes.rules.joining import merged
from fxteleport.passes.rules.registry import named, rule


def moved(call: Call, operands: Sequence[Operand], writes: bool = False) -> Any:
    """The maps of the results: the operation runs once for each factor of the operands' maps.

    One that `writes` in place gets copies: factors are shared by other values, and expanded ones by positions.
    """
    slots = together([o.map for o in operands])
    if not slots:  # a buffer that nothing has scaled
        return pytree.tree_map(lambda _: IDENTITY, call.value)
    leaves: list[list[tuple[Tensor, int]]] = []
    spec: Any = None
    zeros = False
    for columns, exponent in slots:
        symbols = {}
        for operand, column in zip(operands, columns, strict=True):
            held = torch.full((1,) * operand.rank, ONE) if column is None else column
            held = held.expand(tuple(operand.shape))
            symbols[operand] = held.clone(memory_format=torch.contiguous_format) if writes else held
        results, spec = pytree.tree_flatten(call.rerun(symbols))
        leaves = leaves or [[] for _ in results]
        for factors, result in zip(leaves, results, strict=True):
            small = compress(result)
            if bool((small != ONE).any()):
                factors.append((small, exponent))
                zeros = zeros or bool((small == ANY).any())
    return pytree.tree_unflatten([CobMap(tuple(f), zeros) for f in leaves], spec)


@rule(
    *named(
        "view reshape flatten unflatten squeeze unsqueeze view_as reshape_as ravel view_copy squeeze_copy"
        " unsqueeze_copy"
    ),
    nn.Flatten,
    nn.Unflatten,
    shape=shape_functions.reshaped,
    along=folds.itself,
    form=forms.unsqueezed,
)
def reshaped(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    call.shape_only(*rest, *settings.values())
    if input.value.dtype != call.value.dtype:
        call.decline("it reads the same bytes as another type")
    new, target = tuple(call.value.shape), call.sizes
    given = folds.apart(call, input)
    cob, sizes, old = given.cob, given.sizes, given.shape
    if not any(type(n) is Size for n in (*sizes, *target)):
        return cob.each(lambda s: reshape(s, old, new))
    blocks = cuts(sizes, target)
    mixed = [bool(_recut(call, sizes, cob, axes)) for axes, _ in blocks]
    if (cut := folds.recut(call, given, blocks, mixed)) is not None:
        return cut
    for axis, inner in _divided(sizes, target):
        sizes = (*sizes[:axis], sizes[axis] // inner, inner, *sizes[axis + 1 :])  # type: ignore[operator]
        apart = (*old[:axis], old[axis] // inner, inner, *old[axis + 1 :])
        cob, old = cob.each(functools.partial(reshape, old=old, new=apart)), apart
    blocks = cuts(sizes, target)
    for axes, _ in blocks:
        cob = call.constant(cob, _recut(call, sizes, cob, axes), "the inputs' sizes decide how these axes are cut")
    return cob.each(lambda s: reshape(s, old, new, blocks))


def _divided(old: Sequence[Extent], new: Sequence[Extent]) -> list[tuple[int, int]]:
    """Known axes of which only the inner part is cut out: heads that go into the batch, [b, 128] -> [b * 8, 16].

    They come last first, each with the size of its inner part.
    """
    parts = []
    for rows, columns in reversed(cuts(tuple(old), tuple(new))):
        ends = itertools.takewhile(lambda n: type(n) is int, (new[j] for j in reversed(columns)))
        inner = product(ends)
        whole = old[rows[-1]] if rows else None
        mixed = any(type(old[i]) is Size for i in rows)
        if mixed and type(whole) is int and type(inner) is int and 1 < inner < whole and whole % inner == 0:
            parts.append((rows[-1], inner))
    return parts


def _recut(call: Call, sizes: Sequence[Extent], cob: CobMap, axes: Sequence[int]) -> list[int]:
    """The axes of a block along which a map varies, if where its elements go depends on the inputs' sizes.

    It does not where what lies between them is of a known size, all together: [channels, height, width] -> [features]
    before a layer that takes so many features.
    """
    varying = [axis for axis in axes if cob.varies(axis)]
    for varies, run in itertools.groupby(axes, cob.varies):
        if not varies and type(call.settled(product(sizes[axis] for axis in run))) is Size:
            return varying
    return []


@rule(
    *named("expand expand_as broadcast_to expand_copy"),
    shape=shape_functions.expanded,
    along=folds.elementwise,
    form=forms.expanded,
)
def expanded(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    call.shape_only(*rest, *settings.values())
    return input.map.aligned(call.value.ndim)


@rule(*named("as_strided"), shape=shape_functions.restrided, along=folds.elementwise)
def restrided(call: Call, input: Operand, size: Any, stride: Any, storage_offset: Any = None) -> CobMap:
    """The same elements where they lie anyway: decomposed pooling says so, whatever it says of axes of size 1."""
    call.shape_only(size)
    axes = zip(input.sizes, stride, input.value.stride(), strict=False)
    if call.sizes != input.sizes or storage_offset or any(n != 1 and a != b for n, a, b in axes):
        call.decline("it reads memory in another order")
    return input.map


@rule(*named("broadcast_tensors"), shape=shape_functions.all_broadcast)
def broadcast(call: Call, *tensors: Any) -> list[CobMap]:
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], list) else tensors
    return [tensor.map.aligned(call.value[0].ndim) for tensor in given]


@rule(
    *named("permute transpose movedim t adjoint permute_copy transpose_copy t_copy"),
    shape=shape_functions.permuted,
    along=folds.permuted,
)
def permuted(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    def run(symbols: Tensor) -> Tensor:
        result: Tensor = call.rerun({input: symbols})
        return result

    return input.map.each(run)  # the axes of size 1 move as the others do


@rule(
    *named(
        "getitem select narrow unbind split split_with_sizes chunk tensor_split hsplit vsplit index_select flip"
        " fliplr flipud roll repeat repeat_interleave tile pixel_shuffle pixel_unshuffle channel_shuffle rot90"
        " take_along_dim unfold atleast_1d atleast_2d atleast_3d unsafe_chunk gather diag_embed"
        " diag diagflat dsplit unsafe_split unsafe_split_with_sizes narrow_copy select_copy slice_copy"
        " split_copy split_with_sizes_copy unbind_copy unfold_copy"
    ),
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    nn.Unfold,
    shape=shape_functions.moved,
    along=folds.picked,
    form=forms.indexed,
)
def move(call: Call, input: Operand, *rest: Any, **settings: Any) -> Any:
    unknown = [x for x in _leaves((rest, settings)) if _is_unknown(x)]
    return picked(call, input, unknown, *rest, **settings) if unknown else moved(call, [input])


def _is_unknown(x: Any) -> bool:
    return isinstance(x, Unknown) or (isinstance(x, Operand) and x.value.is_meta)


def _leaves(x: Any) -> list[Any]:
    """The leaves of an argument structure, those of slices too."""
    leaves = pytree.tree_leaves(x)
    return [y for leaf in leaves for y in ((leaf.start, leaf.stop, leaf.step) if isinstance(leaf, slice) else (leaf,))]


def picked(call: Call, input: Operand, unknown: Sequence[Operand | Unknown], *rest: Any, **settings: Any) -> Any:
    """Positions that sizes or the run pick: one CoB for all that may be picked, and then any of them stands for it."""
    indices = [x for x in unknown if isinstance(x, Operand)]
    if any(i.value.dtype in (torch.bool, torch.uint8) for i in indices):
        call.decline("it is picked by a mask that is not known before the run")
    axes = _axes_read(call, input.rank, rest, settings)
    cob = call.constant(input.map, axes, "which of these positions is taken is not known before the run")
    if not isinstance(call.value, Tensor):  # parts, cut along an axis
        whole = len(axes) == input.rank  # along which axis they are cut may be what is not known
        return pytree.tree_map(lambda p: cob.each(lambda s: s.reshape((1,) * p.ndim)) if whole else cob, call.value)
    zeros = {index: torch.zeros(tuple(index.shape), dtype=index.value.dtype) for index in indices}
    shape = tuple(input.shape)
    taken = cob.each(lambda s: compress(call.rerun({input: s.expand(shape), **zeros}, guessing=True)))
    return CobMap(taken.factors, cob.zeros or any(bool((s == ANY).any()) for s, _ in taken.factors))


# Where the axis stands among the arguments behind the input, and which it is if it does not.
_AXIS: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys(("narrow", "select", "index_select", "gather", "unfold"), (0, None)),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split"), (1, 0)),
    **dict.fromkeys(("take_along_dim", "repeat_interleave"), (1, None)),
}


def _axes_read(call: Call, rank: int, rest: Sequence[Any], settings: dict[str, Any]) -> list[int]:
    """The axes along which an unknown number or index of a call picks."""
    name = call.name
    if name == "getitem":
        return _indexed(rest[0], rank)
    if name in ("repeat", "tile"):
        counts = rest[0] if len(rest) == 1 and isinstance(rest[0], list) else [*rest, *settings.values()]
        return [rank - 1 - i for i, n in enumerate(reversed(counts)) if isinstance(n, Unknown) and i < rank]
    if name in _AXIS:
        place, default = _AXIS[name]
        dim = settings.get("dim", settings.get("axis", rest[place] if len(rest) > place else default))
        if isinstance(dim, int):
            return axes_of(dim, rank)
    if name == "roll" and len(rest) > 1 and not any(map(_is_unknown, _leaves(rest[1]))):
        return axes_of(rest[1], rank)
    return list(range(rank))


def _indexed(index: Any, rank: int) -> list[int]:
    """The axes that `x[index]` reads where the run finds out: through tensors and numbers."""
    items = index if isinstance(index, tuple) else (index,)
    axes, axis = list[int](), 0
    for item in items:
        span = rank - sum(map(_span, items)) if item is ... else _span(item)
        if any(isinstance(x, (Operand, Unknown)) for x in _leaves(item)):
            axes += range(axis, axis + span)
        axis += span
    return axes


def _span(item: Any) -> int:
    """How many axes one item of an index stands for: a mask for as many as it has."""
    if isinstance(item, Operand) and item.value.dtype in (torch.bool, torch.uint8):
        return item.rank
    return 0 if item is None or item is ... or isinstance(item, bool) else 1


@rule(*named("tril triu"), shape=shape_functions.same)
def triangle(call: Call, input: Operand, diagonal: Any = 0) -> Any:
    if isinstance(diagonal, Unknown) or any(type(n) is Size for n in input.sizes[-2:]):
        return input.map  # zeros, wherever they are, fit any CoB
    return moved(call, [input])


@rule(*named("diagonal diagonal_copy"), shape=shape_functions.moved)
def on_diagonal(call: Call, input: Operand, offset: Any = 0, dim1: int = 0, dim2: int = 1) -> Any:
    axes = [dim1 % input.rank, dim2 % input.rank]
    if not isinstance(offset, Unknown) and not any(type(input.sizes[axis]) is Size for axis in axes):
        return moved(call, [input])
    cob = call.constant(input.map, axes, "how long its diagonal is, and where, is not known before the run")
    return cob.each(lambda s: compress(call.rerun({input: s.expand(tuple(input.shape))}, guessing=True)))


@rule(*named("cat"), shape=shape_functions.concatenated, axes=BY_DIM)
def concatenated(call: Call, tensors: Sequence[Operand], dim: int = 0, **settings: Any) -> CobMap:
    """As `moved`, but only the axis that grows is expanded: dense networks concatenate often."""
    axis, why = dim % call.value.ndim, "how many positions each of them has is not known before the run"
    call.shape_only(*tensors)
    # what is empty on every input brings nothing; torch allows a [0] among tensors of any rank
    tensors = [t for t in tensors if t.rank == call.value.ndim and t.sizes[axis] != 0] or tensors
    if any(type(t.sizes[axis]) is Size for t in tensors):
        maps = [call.constant(t.map, [axis], why) for t in tensors]
        return functools.reduce(lambda a, b: merged(call, a, b, why), maps)
    factors = []
    for columns, exponent in together([t.map for t in tensors]):
        held = [torch.full((1,) * call.value.ndim, ONE) if c is None else c for c in columns]
        joint = [max(h.size(i) for h in held) for i in range(call.value.ndim)]
        shapes = [[*joint[:axis], t.shape[axis], *joint[axis + 1 :]] for t in tensors]
        factors.append((torch.cat([h.expand(s) for h, s in zip(held, shapes, strict=True)], axis), exponent))
    return CobMap(tuple((compress(s), e) for s, e in factors), any(t.map.zeros for t in tensors))


@rule(*named("stack hstack vstack dstack column_stack"), shape=shape_functions.stacked, axes=BY_DIM)
def joined(call: Call, tensors: Sequence[Operand], dim: int = 0, **settings: Any) -> Any:
    return moved(call, list(dict.fromkeys(tensors)))


@rule(*named("pad constant_pad_nd"), shape=shape_functions.padded, axes=FROM_THE_RIGHT)
def padded(call: Call, input: Operand, pad: Sequence[int], mode: Any = "constant", value: Any = 0) -> Any:
    if not isinstance(mode, str):  # constant_pad_nd(input, pad, value)
        mode, value = "constant", mode
    if value:
        call.pin(input.map, "it is padded with a constant other than zero")
        return IDENTITY
    sides = [(input.rank - 1 - i // 2, n) for i, n in enumerate(pad)]  # pad begins with the last axis
    cob = call.constant(
        input.map, [axis for axis, n in sides if isinstance(n, Unknown)], "how much is put beside it is not known"
    )
    if not any(cob.varies(axis) for axis, n in sides if n):
        return cob  # what is padded on takes the CoB of its neighbours: zeros fit any
    if any(isinstance(n, Unknown) for _, n in sides):
        call.decline("it is padded along one axis by what is known, along another by what is not")
    return moved(call, [input])


@rule(
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d,
    nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d,
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d,
    nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d,
    nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d,
    shape=shape_functions.padded,
    axes=FROM_THE_RIGHT,
)  # fmt: skip
def padded_by_module(call: Call, input: Operand, padding: Sequence[int], value: float = 0.0) -> Any:
    return padded(call, input, padding, value=value)


@rule(setitem, *named("index_put"), shape=shape_functions.same)
def written(call: Call, input: Operand, index: Any, value: Any) -> Any:
    """`x[index] = value`: zero is a structural zero, another constant has the CoB 1."""
    unknown = [x for x in _leaves(index) if _is_unknown(x)]
    if not isinstance(value, Operand):
        if isinstance(value, Unknown) or value != 0:
            call.pin(input.map, "a constant other than zero is written into it")
            return IDENTITY
        call.shape_only(*unknown)
        if unknown:
            return input.map  # zeros fit any CoB, wherever they are
        return beside(call, input, moved(call, [input], writes=True), _written(index, input.rank))
    if not _region(call, input, index).numel():
        call.decline("other inputs write something here, the example inputs do not")
    if not unknown:
        return beside(call, input, moved(call, [input, value], writes=True), _written(index, input.rank))
    return written_somewhere(call, input, index, value, [x for x in unknown if isinstance(x, Operand)])


def beside(call: Call, input: Operand, result: CobMap, axes: Sequence[int]) -> CobMap:
    """A part of the input was written over, along axes that other inputs may make longer: there the input stays."""
    longer = [axis for axis in axes if type(input.sizes[axis]) is Size]
    if not longer:
        return result
    why = "other inputs have more positions than are written over"
    return merged(call, call.constant(result, longer, why), call.constant(input.map, longer, why), why)


def _written(index: Any, rank: int) -> list[int]:
    """The axes of which `x[index] = value` may leave some positions."""
    items = index if isinstance(index, tuple) else (index,)
    axes, axis = list[int](), 0
    for item in items:
        span = rank - sum(map(_span, items)) if item is ... else _span(item)
        if item is not ... and item != slice(None):
            axes += range(axis, axis + span)
        axis += span
    return axes


def _region(call: Call, input: Operand, index: Any) -> Tensor:
    """What `x[index]` is in the example, as far as its shape goes."""

    def put(x: Any) -> Any:
        if isinstance(x, slice):
            return slice(put(x.start), put(x.stop), put(x.step))
        if isinstance(x, Operand):
            return torch.zeros(tuple(x.shape), dtype=x.value.dtype) if x.value.is_meta else x.value
        return x.value if isinstance(x, Unknown) else x

    where = pytree.tree_map(put, index)
    region: Tensor = torch.zeros(()).expand(tuple(input.shape))[tuple(where) if call.name == "index_put" else where]
    return region


def written_somewhere(call: Call, input: Operand, index: Any, value: Operand, indices: Sequence[Operand]) -> CobMap:
    """Along the axes of which an index is not known, what is written and what stays share one CoB."""
    if any(i.value.dtype in (torch.bool, torch.uint8) for i in indices):
        call.decline("it is written by a mask that is not known before the run")
    axes, why = _indexed(index, input.rank), "where it is written along this axis is not known before the run"
    zeros = {i: torch.zeros(tuple(i.shape), dtype=i.value.dtype) for i in indices}
    blank = torch.full(tuple(input.shape), ANY)
    factors = value.map.factors or ((torch.full((1,) * value.rank, ONE), 1),)

    def put(symbols: Tensor) -> Tensor:
        held = symbols.expand(tuple(value.shape))
        return compress(call.rerun({input: blank.clone(), value: held, **zeros}, guessing=True))

    sent = CobMap(tuple((put(s), e) for s, e in factors), zeros=True)
    return merged(call, call.constant(input.map, axes, why), call.constant(sent, axes, why), why)


@rule("copy_", shape=shape_functions.same)
def copied(call: Call, input: Operand, src: Operand, non_blocking: bool = False) -> CobMap:
    """All of the input is written over."""
    call.shape_only(input)
    if not carries(call.value):
        call.pin(src.map, "it is cast to a type without fractions")
        return IDENTITY
    return src.map.aligned(call.value.ndim)


@rule(*named("slice_scatter"), shape=shape_functions.same)
def slice_scattered(call: Call, input: Operand, src: Operand, dim: int = 0, *rest: Any, **settings: Any) -> Any:
    return scattered(call, input, src, [dim])


@rule(*named("select_scatter"), shape=shape_functions.same)
def select_scattered(call: Call, input: Operand, src: Operand, dim: int, index: Any) -> Any:
    return scattered(call, input, src, [dim])


@rule(*named("diagonal_scatter"), shape=shape_functions.same)
def diagonal_scattered(call: Call, input: Operand, src: Operand, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    return scattered(call, input, src, [dim1, dim2])


def scattered(call: Call, input: Operand, src: Operand, dims: Sequence[int]) -> CobMap:
    """A part of the input, along some axes, is written over."""
    if not src.value.numel():
        call.decline("other inputs write something here, the example inputs do not")
    return beside(call, input, moved(call, [input, src]), [dim % input.rank for dim in dims])


@rule(getattr, shape=shape_functions.permuted, along=folds.permuted)
def attribute(call: Call, input: Any, name: str) -> Any:
    if name in ("data", "real", "imag"):
        return input.map
    if name in ("T", "mT", "H", "mH"):
        return permuted(call, input)
    return call.decline(f"the attribute '{name}' is not known")
