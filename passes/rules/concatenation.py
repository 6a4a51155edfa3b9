"""Concatenation and padding: tensors are joined with others, or with constants, along an axis."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fxteleport.passes.domain.cob_map import IDENTITY, ONE, CobMap, compress, together
from fxteleport.passes.domain.size import Size
from fxteleport.passes.rules import folds, shape_functions
from fxteleport.passes.rules.axes import BY_DIM, FROM_THE_RIGHT
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.joining import merged
from fxteleport.passes.rules.movement import moved
from fxteleport.passes.rules.operand import Operand, Unknown
from fxteleport.passes.rules.registry import named, rule


@rule(*named("cat"), shape=shape_functions.concatenated, axes=BY_DIM)
def concatenated(call: Call, tensors: Sequence[Operand], dim: int = 0, **settings: Any) -> CobMap:
    """As `moved`, but only the axis that grows is expanded: dense networks concatenate often."""
    axis, why = dim % call.value.ndim, "how many positions each of them has is not known before the run"
    call.shape_only(*tensors)
    # tensors that are empty on every input do not count; torch allows a [0] among tensors of any rank
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


@rule(*named("pad constant_pad_nd"), shape=shape_functions.padded, along=folds.padded, axes=FROM_THE_RIGHT)
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
