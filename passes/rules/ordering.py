"""Operations that depend on order alone: comparisons, sorting, the largest few. A common positive CoB keeps the order.

Values that are compared share a CoB; a comparison with 0 allows any. A negative CoB would reverse the order.
"""

from __future__ import annotations

from typing import Any

from fxteleport.passes.domain.cob_map import IDENTITY, CobMap
from fxteleport.passes.rules import shape_functions
from fxteleport.passes.rules.axes import BY_DIM, FROM_THE_RIGHT
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.equivariant import axes_of, dropped
from fxteleport.passes.rules.operand import Operand
from fxteleport.passes.rules.registry import named, rule

_TURNED = "a negative CoB would turn the order round"


@rule(*named("eq ne"), shape=shape_functions.broadcast, axes=FROM_THE_RIGHT)
def equal(call: Call, input: Any, other: Any) -> CobMap:
    if isinstance(input, Operand) and isinstance(other, Operand):
        call.same(input.map, other.map, "they are compared")
        return IDENTITY
    cob, number = (input.map, other) if isinstance(input, Operand) else (other.map, input)
    if number != 0:  # true also for a number that is unknown before the run
        call.pin(cob, "it is compared with a number")
    return IDENTITY


@rule(*named("gt ge lt le"), shape=shape_functions.broadcast, axes=FROM_THE_RIGHT)
def compared(call: Call, input: Any, other: Any) -> CobMap:
    equal(call, input, other)
    for x in (input, other):
        if isinstance(x, Operand):
            call.positive(x.map, _TURNED)
    return IDENTITY


def ordered(call: Call, input: Operand, dim: Any) -> CobMap:
    """The map of a tensor that is put in order along an axis."""
    cob = call.constant(input.map, axes_of(dim, input.rank), "these positions are put in order")
    call.positive(cob, _TURNED)
    return cob


@rule(*named("argmax argmin"), shape=shape_functions.reduced, axes=BY_DIM)
def position_of_extreme(call: Call, input: Operand, dim: Any = None, keepdim: bool = False) -> CobMap:
    ordered(call, input, dim)
    return IDENTITY


@rule(*named("argsort"), shape=shape_functions.same, axes=BY_DIM)
def positions_in_order(call: Call, input: Operand, dim: int = -1, *rest: Any, **settings: Any) -> CobMap:
    ordered(call, input, dim)
    return IDENTITY


@rule(*named("sort"), shape=shape_functions.same, axes=BY_DIM)
def sorted_(call: Call, input: Operand, dim: int = -1, *rest: Any, **settings: Any) -> Any:
    return [ordered(call, input, dim), None]


@rule(*named("topk"), axes=BY_DIM)
def largest_few(call: Call, input: Operand, k: Any, dim: int = -1, *rest: Any, **settings: Any) -> Any:
    return [ordered(call, input, dim), None]


@rule(*named("kthvalue"), axes=BY_DIM)
def kth(call: Call, input: Operand, k: Any, dim: int = -1, keepdim: bool = False) -> Any:
    return [dropped(ordered(call, input, dim), axes_of(dim, input.rank), keepdim), None]


@rule(*named("mode"))
def most_frequent(call: Call, input: Operand, dim: int = -1, keepdim: bool = False) -> Any:
    """The smallest of the most frequent values."""
    return [dropped(ordered(call, input, dim), axes_of(dim, input.rank), keepdim), None]


@rule(*named("heaviside"))
def step(call: Call, input: Operand, values: Operand) -> CobMap:
    call.positive(input.map, _TURNED)
    call.pin(values.map, "it stands beside 0 and 1")
    return IDENTITY


@rule(*named("quantile nanquantile"))
def quantile(call: Call, input: Operand, q: Any, dim: Any = None, keepdim: bool = False, **settings: Any) -> CobMap:
    """A value, or an interpolation between two; with several q they are the first axis of the result."""
    if isinstance(q, Operand):
        call.pin(q.map, "it says which quantile")
    return dropped(ordered(call, input, dim), axes_of(dim, input.rank), keepdim).aligned(call.value.ndim)
