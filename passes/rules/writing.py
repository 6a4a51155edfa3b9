"""Writing: a part of a tensor is replaced by another tensor, in place or in a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxteleport.passes.domain.cob_map import ANY, IDENTITY, ONE, CobMap, compress
from fxteleport.passes.domain.size import Size
from fxteleport.passes.graph.ops import setitem
from fxteleport.passes.rules import shape_functions
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.joining import merged
from fxteleport.passes.rules.movement import moved
from fxteleport.passes.rules.operand import Operand, Unknown, carries
from fxteleport.passes.rules.registry import named, rule
from fxteleport.passes.rules.unknown_index import axes_indexed, is_unknown, leaves_of_index, span_of


@rule(setitem, *named("index_put"), shape=shape_functions.same)
def written(call: Call, input: Operand, index: Any, value: Any) -> Any:
    """`x[index] = value`: zero is a structural zero, another constant has the CoB 1."""
    unknown = [x for x in leaves_of_index(index) if is_unknown(x)]
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
    """The map of an input of which a part was written over: other inputs may have more positions, where it stays."""
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
        span = rank - sum(map(span_of, items)) if item is ... else span_of(item)
        if item is not ... and item != slice(None):
            axes += range(axis, axis + span)
        axis += span
    return axes


def _region(call: Call, input: Operand, index: Any) -> Tensor:
    """A tensor of the shape that `x[index]` has in the example."""

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
    """Along axes with an unknown index, the written values and those that stay share one CoB."""
    if any(i.value.dtype in (torch.bool, torch.uint8) for i in indices):
        call.decline("it is written by a mask that is not known before the run")
    axes, why = axes_indexed(index, input.rank), "where it is written along this axis is not known before the run"
    zeros = {i: torch.zeros(tuple(i.shape), dtype=i.value.dtype) for i in indices}
    blank = torch.full(tuple(input.shape), ANY)
    factors = value.map.factors or ((torch.full((1,) * value.rank, ONE), 1),)

    def put(symbols: Tensor) -> Tensor:
        held = symbols.expand(tuple(value.shape))
        return compress(call.rerun({input: blank.clone(), value: held, **zeros}, guessing=True))

    sent = CobMap(tuple((put(s), e) for s, e in factors), zeros=True)
    return merged(call, call.constant(input.map, axes, why), call.constant(sent, axes, why), why)


@rule("copy_", shape=shape_functions.copied)
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
