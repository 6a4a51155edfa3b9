"""Scattering: values are put, or added, where an index along an axis points (the messages of graph networks).

The index is data: all positions along the axis share one CoB, and so do the scattered values. A tensor of zeros to
scatter into fits any CoB. An index that is known is followed exactly where values only move.
"""

from __future__ import annotations

from typing import Any

import torch

from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.rules import shape_functions
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.equivariant import axes_of
from fxteleport.passes.rules.joining import joined, merged
from fxteleport.passes.rules.movement import moved
from fxteleport.passes.rules.operand import Operand
from fxteleport.passes.rules.registry import named, rule
from fxteleport.passes.rules.writing import beside


@rule(*named("index_add"), shape=shape_functions.copied_along)
def index_add(call: Call, input: Operand, dim: int, index: Operand, source: Operand, alpha: Any = 1) -> CobMap:
    return spread(call, input, dim, source)


@rule(*named("scatter_add"), shape=shape_functions.same)
def scatter_add(call: Call, input: Operand, dim: int, index: Operand, src: Operand) -> CobMap:
    return spread(call, input, dim, src)


@rule(*named("scatter_reduce"), shape=shape_functions.same)
def scatter_reduce(
    call: Call, input: Operand, dim: int, index: Operand, src: Operand, reduce: str, include_self: bool = True
) -> CobMap:
    return reduced(call, input, dim, src, reduce)


@rule(*named("index_reduce"), shape=shape_functions.same)
def index_reduce(
    call: Call, input: Operand, dim: int, index: Operand, source: Operand, reduce: str, include_self: bool = True
) -> CobMap:
    return reduced(call, input, dim, source, reduce)


def reduced(call: Call, input: Operand, dim: int, source: Operand, reduce: str) -> CobMap:
    if reduce == "prod":
        call.decline("values are multiplied where an index points")
    cob = spread(call, input, dim, source)
    if reduce in ("amax", "amin"):
        call.positive(cob, "a negative CoB would take the smallest for the largest")
    return cob


@rule(*named("index_copy"), shape=shape_functions.copied_along)
def index_copy(call: Call, input: Operand, dim: int, index: Operand, source: Operand) -> Any:
    return put(call, input, dim, index, source)


@rule(*named("scatter"), shape=shape_functions.same)
def scatter(
    call: Call, input: Operand, dim: int, index: Operand, src: Any = None, value: Any = None, reduce: Any = None
) -> Any:
    if reduce == "multiply":
        call.decline("values are multiplied where an index points")
    if not isinstance(src, Operand):
        return joined(call, [input, value if src is None else src], "a constant is put into it")
    return put(call, input, dim, index, src) if reduce is None else spread(call, input, dim, src)


@rule(*named("index_fill"), shape=shape_functions.same)
def index_fill(call: Call, input: Operand, dim: int, index: Operand, value: Any) -> CobMap:
    return joined(call, [input, value], "a constant is put into it")


def put(call: Call, input: Operand, dim: int, index: Operand, source: Operand) -> Any:
    """Values that replace others; other inputs may have more positions, at which the input stays."""
    if index.value.is_meta:
        return spread(call, input, dim, source)
    axes = axes_of(dim, input.rank)
    if index.rank == input.rank:  # scatter's, which may leave positions along any axis
        axes += [i for i in range(input.rank) if i not in axes and index.sizes[i] != input.sizes[i]]
    return beside(call, input, moved(call, [input, source], writes=True), axes)


def spread(call: Call, input: Operand, dim: int, source: Operand) -> CobMap:
    """The common map of a tensor and of values that go to unknown positions along one of its axes."""
    axes, sizes = axes_of(dim, input.rank), zip(source.shape, input.shape, strict=False)
    if source.rank != input.rank or any(n != m for i, (n, m) in enumerate(sizes) if i not in axes):
        call.decline("what an index scatters is of another size than the positions that it goes to")
    why = "an index decides which of these positions it goes to"
    held, sent = (call.constant(operand.map, axes, why) for operand in (input, source))
    return merged(call, held, sent, why)


@rule(torch.sparse_coo_tensor)
def sparse_coo_tensor(call: Call, indices: Any, values: Operand, size: Any = None, **settings: Any) -> CobMap:
    """Several indices may name one position: one CoB for all values."""
    return call.constant(values.map, [0], "they go where indices point").aligned(call.value.ndim)
