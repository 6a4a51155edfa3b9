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
from fxteleport.passes.rules import folds, forms, shape_functions
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.operand import Operand, Unknown
from fxteleport.passes.rules.registry import named, rule
from fxteleport.passes.rules.unknown_index import is_unknown, leaves_of_index, picked


def moved(call: Call, operands: Sequence[Operand], writes: bool = False) -> Any:
    """The maps of the results: the operation runs once for each factor of the operands' maps.

    An operation that `writes` in place gets copies: other values share the factors, and expanded axes share memory.
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
    """Known axes that are split, their outer part merged with unknown axes: heads, [b, 128] -> [b * 8, 16].

    The last axis comes first, each with the size of its inner part.
    """
    parts = []
    for rows, columns in reversed(cuts(tuple(old), tuple(new))):
        ends = itertools.takewhile(lambda n: type(n) is int, (new[j] for j in reversed(columns)))
        inner = product(ends)
        size = old[rows[-1]] if rows else None
        mixed = any(type(old[i]) is Size for i in rows)
        if mixed and type(size) is int and type(inner) is int and 1 < inner < size and size % inner == 0:
            parts.append((rows[-1], inner))
    return parts


def _recut(call: Call, sizes: Sequence[Extent], cob: CobMap, axes: Sequence[int]) -> list[int]:
    """The axes of a block along which a map varies, if the inputs' sizes decide where its elements go.

    They do not where the axes between have a known product: [channels, height, width] -> [features] before a layer
    with a fixed number of features.
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
    """The strides that the tensor has anyway, but for axes of size 1: decomposed pooling calls it so."""
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
    unknown = [x for x in leaves_of_index((rest, settings)) if is_unknown(x)]
    return picked(call, input, unknown, *rest, **settings) if unknown else moved(call, [input])


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


@rule(getattr, shape=shape_functions.permuted, along=folds.permuted)
def attribute(call: Call, input: Any, name: str) -> Any:
    if name in ("data", "real", "imag"):
        return input.map
    if name in ("T", "mT", "H", "mH"):
        return permuted(call, input)
    return call.decline(f"the attribute '{name}' is not known")
