"""Joining: sums and choices, element by element (add, sub, where, lerp, masked fill).

All operands and the result share one CoB; structural zeros fit any, a constant other than zero has the CoB 1. A
parameter (a position embedding, a bias table) takes the CoB of what it is added to. With a constant, x + c is an
activation as any other: `mode="full"` wraps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxteleport.passes.domain.cob_map import ANY, IDENTITY, CobMap
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.rules import folds, forms, shape_functions
from fxteleport.passes.rules.axes import FROM_THE_RIGHT
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.operand import Operand, carries
from fxteleport.passes.rules.registry import named, rule


def joined(call: Call, operands: Sequence[Any], why: str = "they are added") -> CobMap:
    """The one map of operands (tensors or numbers) that are combined element by element."""
    rank = call.value.ndim
    tensors = [o for o in operands if isinstance(o, Operand)]
    # A parameter that is still free takes the map of the others, so it comes last.
    tensors.sort(key=lambda o: o.is_unbound)
    result: CobMap | None = None
    if any(not isinstance(o, Operand) and o != 0 for o in operands if o is not None):
        result = IDENTITY
        why = "a constant is added"
    for operand in tensors:
        if result is None:
            result = operand.map.aligned(rank)
        elif operand.is_unbound and not any(map(result.varies, range(rank - operand.rank))):
            result = call.filled(result, why)
            call.require(operand, result.trimmed(operand.rank), why)
        else:
            result = merged(call, result, operand.map.aligned(rank), why)
    assert result is not None
    return result


def merged(call: Call, a: CobMap, b: CobMap, why: str) -> CobMap:
    """Unify two maps of the result's rank: equal, except where one of them is a structural zero."""
    call.same(a, b, why)
    dense = [cob for cob in (a, b) if not cob.zeros]
    if len(dense) == 2:  # equal, so neither varies along an axis on which the other does not
        still = [axis for axis in range(call.value.ndim) if not (a.varies(axis) and b.varies(axis))]
        dense = [cob.each(lambda s: _first(s, still)) for cob in dense]
    if dense:
        return _better(dense)
    if len(a.factors) == len(b.factors) == 1:
        ((x, exponent),), ((y, other),) = a.factors, b.factors
        if exponent == other:
            return CobMap(((x.where(x != ANY, y), exponent),), zeros=True)
    result = call.fresh(torch.broadcast_shapes(*(s.shape for s, _ in (*a.factors, *b.factors))), why)
    call.same(result, a, why)
    call.same(result, b, why)
    return result


def _better(cobs: Sequence[CobMap]) -> CobMap:
    """Of two equal maps the one to keep: the smaller or, of similar sizes, the older.

    The newer one may have new names for products (`System.named`). With the older one, each step of an unrolled
    recurrence keeps the names of the step before.
    """
    sizes = [sum(s.numel() for s, _ in cob.factors) for cob in cobs]
    if max(sizes) > _SIMILAR * min(sizes) or all(len(cob.factors) < 2 for cob in cobs):
        return cobs[sizes.index(min(sizes))]
    return min(cobs, key=lambda cob: max((int(s.max()) for s, _ in cob.factors), default=0))


_SIMILAR = 4  # sizes up to this ratio count as similar


def _first(symbols: Tensor, axes: Sequence[int]) -> Tensor:
    """The symbols at the first index of some axes."""
    for axis in axes:
        symbols = symbols.narrow(axis, 0, 1)
    return symbols


@rule(
    *named("add sub rsub"),
    shape=shape_functions.broadcast,
    along=folds.elementwise,
    form=forms.total,
    axes=FROM_THE_RIGHT,
)
def add(call: Call, input: Any, other: Any, alpha: Any = 1, out: Any = None) -> CobMap:
    shifted = with_constant(call) if call.full and out is None else None
    return joined(call, [input, other]) if shifted is None else shifted


def with_constant(call: Call) -> CobMap | None:
    """The map of x + c, wrapped; None where c is no constant, or the call cannot be wrapped.

    A table c with a position for each CoB takes the CoB of x: x tau + c tau. For a number, and for a table that is
    broadcast along an axis on which the CoB varies, the sum is wrapped as an activation: tau (x + c).
    """
    if len(call.args) < 2 or len(call.node.args) < 2:
        return None
    for at, (x, c) in enumerate((call.args[:2], call.args[1::-1])):
        if not isinstance(x, Operand) or not _is_constant(call, c, 1 - at):
            continue
        if info(call.node).has_effect and at == 1:
            return None  # c is written to
        for axis, _ in x.folds:
            x.unfold(call.state.system, axis, call.origin("other inputs have more or fewer of these positions"))
        cob = x.map.settled()
        rank = call.value.ndim
        call.shape_only(c)
        after = cob.aligned(rank)
        if isinstance(c, Operand) and c.value.dtype == call.value.dtype and _reaches(after, c):
            call.wrap(after.trimmed(c.rank) ** -1, None, position=1 - at)
        else:
            call.wrap(cob, cob if x.rank == rank else after, position=at)
        return after
    return None


def _is_constant(call: Call, c: Any, at: int) -> bool:
    """True for a number other than 0, and for a tensor that depends on no input, parameter or saved buffer."""
    if not isinstance(c, Operand):
        return c is not None and c != 0
    node = call.node.args[at]
    if not carries(c.value) or not isinstance(node, fx.Node) or not call.state.is_fixed(node):
        return False
    return not c.is_unbound and not c.map.factors


def _reaches(cob: CobMap, c: Operand) -> bool:
    """True where a tensor has a position for each CoB of a map of at least its rank."""
    apart = max((s.ndim for s, _ in cob.factors), default=0) - c.rank
    return not any(cob.varies(i) and (i < apart or c.shape[i - apart] == 1) for i in range(apart + c.rank))


@rule(*named("where"), shape=shape_functions.broadcast, along=folds.elementwise, axes=FROM_THE_RIGHT)
def where(call: Call, *operands: Any, **others: Any) -> CobMap:
    # torch.where(condition, a, b), or a.where(condition, b)
    operands = (*operands, *others.values())
    boolean = [isinstance(o, Operand) and not carries(o.value) for o in operands]
    if boolean.count(True) != 1:
        call.decline("its condition is not one boolean tensor")
    return joined(call, [o for o, skip in zip(operands, boolean, strict=True) if not skip], "one of them is chosen")


@rule(*named("masked_fill"), shape=shape_functions.broadcast, along=folds.elementwise, axes=FROM_THE_RIGHT)
def masked_fill(call: Call, input: Operand, mask: Operand, value: Any) -> CobMap:
    return joined(call, [input, value], "one of them is chosen")


@rule(*named("lerp"), shape=shape_functions.broadcast, axes=FROM_THE_RIGHT)
def lerp(call: Call, input: Operand, end: Operand, weight: Any) -> CobMap:
    if isinstance(weight, Operand):
        call.pin(weight.map, "it weighs two values")
    return joined(call, [input, end])
