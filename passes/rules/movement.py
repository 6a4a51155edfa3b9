"""Movement: operations that only move elements.

The operation itself runs on the symbols, expanded with stride 0 to the tensor's shape; then axes that turn out
constant are dropped. Every element keeps its CoB, so nothing is constrained and nothing is rewritten. Padding
with zeros brings in structural zeros, which any CoB fits.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxteleport.passes.call import Call, Operand, Unknown, carries
from fxteleport.passes.maps import ANY, IDENTITY, ONE, CobMap, compress, reshape, together
from fxteleport.passes.proxy import setitem
from fxteleport.passes.rules import named, rule


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
)
def reshaped(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    call.shape_only(*rest, *settings.values())
    if input.value.dtype != call.value.dtype:
        call.decline("it reads the same bytes as another type")
    old, new = tuple(input.shape), tuple(call.value.shape)
    cob = input.map
    if any(isinstance(x, Unknown) for x in pytree.tree_leaves((rest, settings))):
        sizes = pytree.tree_leaves(rest)
        ends = zip(reversed(old), reversed(new), reversed(sizes), strict=False)
        same = list(itertools.takewhile(lambda end: end[0] == end[1] == end[2], ends)) if len(sizes) == len(new) else []
        cob = call.constant(cob, range(input.rank - len(same)), "the run decides how these axes are cut")
    return cob.each(lambda s: reshape(s, old, new))


@rule(*named("expand expand_as broadcast_to expand_copy"))
def expanded(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    call.shape_only(*rest, *settings.values())
    return input.map.aligned(call.value.ndim)


@rule(*named("broadcast_tensors"))
def broadcast(call: Call, *tensors: Any) -> list[CobMap]:
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], list) else tensors
    return [tensor.map.aligned(call.value[0].ndim) for tensor in given]


@rule(*named("permute transpose swapaxes swapdims movedim moveaxis t adjoint permute_copy transpose_copy t_copy"))
def permuted(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    def run(symbols: Tensor) -> Tensor:
        result: Tensor = call.rerun({input: symbols})
        return result

    return input.map.each(run)  # the axes of size 1 move as the others do


@rule(
    *named(
        "getitem select narrow unbind split split_with_sizes chunk tensor_split hsplit vsplit index_select flip"
        " fliplr flipud roll repeat repeat_interleave tile pixel_shuffle pixel_unshuffle channel_shuffle rot90"
        " diagonal take_along_dim unfold tril triu atleast_1d atleast_2d atleast_3d unsafe_chunk gather diag_embed"
        " diag diagflat dsplit unsafe_split unsafe_split_with_sizes diagonal_copy narrow_copy select_copy slice_copy"
        " split_copy split_with_sizes_copy unbind_copy unfold_copy"
    ),
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    nn.Unfold,
)
def move(call: Call, input: Operand, *rest: Any, **settings: Any) -> Any:
    unknown = [x for x in _leaves((rest, settings)) if isinstance(x, Unknown) or _is_unknown(x)]
    return picked(call, input, unknown, *rest, **settings) if unknown else moved(call, [input])


def _is_unknown(x: Any) -> bool:
    return isinstance(x, Operand) and x.value.is_meta


def _leaves(x: Any) -> list[Any]:
    """The leaves of an argument structure, those of slices too."""
    leaves = pytree.tree_leaves(x)
    return [y for leaf in leaves for y in ((leaf.start, leaf.stop, leaf.step) if isinstance(leaf, slice) else (leaf,))]


def picked(call: Call, input: Operand, unknown: Sequence[Operand | Unknown], *rest: Any, **settings: Any) -> Any:
    """Positions that the run picks: one CoB for all that it may pick from, and then any of them stands for it."""
    indices = [x for x in unknown if isinstance(x, Operand)]
    if any(i.value.dtype in (torch.bool, torch.uint8) for i in indices):
        call.decline("it is picked by a mask that is not known before the run")
    if call.node.target is operator.getitem:
        (index,) = rest
        axes = _indexed(index, input.rank)
    else:  # index_select, gather, take_along_dim: along a dimension, or of all elements
        given = [x % input.rank for x in (settings.get("dim"), *rest) if isinstance(x, int)]
        by_index = given and len(indices) == len(unknown) and isinstance(call.value, Tensor)
        axes = given if by_index else list(range(input.rank))
    cob = call.constant(input.map, axes, "the run decides which of these positions is taken")
    zeros = {index: torch.zeros(tuple(index.shape), dtype=index.value.dtype) for index in indices}
    shape = tuple(input.shape)
    if not isinstance(call.value, Tensor):  # parts, whose sizes the run decides
        return pytree.tree_map(lambda part: cob.each(lambda s: s.reshape((1,) * part.ndim)), call.value)
    return cob.each(lambda s: compress(call.rerun({input: s.expand(shape), **zeros}, guessing=True)))


def _indexed(index: Any, rank: int) -> list[int]:
    """The axes that `x[index]` reads where the run finds out: through tensors and numbers."""
    items = index if isinstance(index, tuple) else (index,)
    named = sum(item is not None and item is not ... for item in items)
    axes, axis = [], 0
    for item in items:
        if any(isinstance(x, (Operand, Unknown)) for x in _leaves(item)):
            axes.append(axis)
        axis += rank - named if item is ... else item is not None
    return axes


@rule(*named("cat concat concatenate"))
def concatenated(call: Call, tensors: Sequence[Operand], dim: int = 0, **settings: Any) -> CobMap:
    """As `moved`, but only the axis that grows is expanded: dense networks concatenate often."""
    tensors = [t for t in tensors if t.value.ndim == call.value.ndim]  # torch allows empty [0] tensors among them
    axis = dim % call.value.ndim
    factors = []
    for columns, exponent in together([t.map for t in tensors]):
        held = [torch.full((1,) * call.value.ndim, ONE) if c is None else c for c in columns]
        joint = [max(h.size(i) for h in held) for i in range(call.value.ndim)]
        shapes = [[*joint[:axis], t.shape[axis], *joint[axis + 1 :]] for t in tensors]
        factors.append((torch.cat([h.expand(s) for h, s in zip(held, shapes, strict=True)], axis), exponent))
    return CobMap(tuple((compress(s), e) for s, e in factors), any(t.map.zeros for t in tensors))


@rule(*named("stack hstack vstack dstack row_stack column_stack"))
def joined(call: Call, tensors: Sequence[Operand], dim: int = 0, **settings: Any) -> Any:
    return moved(call, list(dict.fromkeys(tensors)))


@rule(*named("pad constant_pad_nd"))
def padded(call: Call, input: Operand, pad: Sequence[int], mode: Any = "constant", value: Any = 0) -> Any:
    if not isinstance(mode, str):  # constant_pad_nd(input, pad, value)
        mode, value = "constant", mode
    if value:
        call.pin(input.map, "it is padded with a constant other than zero")
        return IDENTITY
    grown = (input.rank - 1 - i // 2 for i, n in enumerate(pad) if n)  # pad begins with the last axis
    if not any(input.map.varies(axis) for axis in grown):
        return input.map  # what is padded on takes the CoB of its neighbours: zeros fit any
    return moved(call, [input])


@rule(
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d,
    nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d,
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d,
    nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d,
    nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d,
)  # fmt: skip
def padded_by_module(call: Call, input: Operand, padding: Sequence[int], value: float = 0.0) -> Any:
    return padded(call, input, padding, value=value)


@rule(setitem, *named("index_put"))
def written(call: Call, input: Operand, index: Any, value: Any) -> Any:
    """`x[index] = value`: zero is a structural zero, another constant has the CoB 1."""
    if isinstance(value, Operand):
        return moved(call, [input, value], writes=True)
    if value != 0:
        call.pin(input.map, "a constant other than zero is written into it")
        return IDENTITY
    return moved(call, [input], writes=True)


@rule("copy_")
def copied(call: Call, input: Operand, src: Operand, non_blocking: bool = False) -> CobMap:
    """All of the input is written over."""
    call.shape_only(input)
    if not carries(call.value):
        call.pin(src.map, "it is cast to a type without fractions")
        return IDENTITY
    return src.map.aligned(call.value.ndim)


@rule(*named("slice_scatter select_scatter diagonal_scatter"))
def scattered(call: Call, input: Operand, src: Operand, *rest: Any, **settings: Any) -> Any:
    return moved(call, [input, src])


@rule(getattr)
def attribute(call: Call, input: Any, name: str) -> Any:
    if name in ("data", "real", "imag"):
        return input.map
    if name in ("T", "mT", "H", "mH"):
        return permuted(call, input)
    return call.decline(f"the attribute '{name}' is not known")
