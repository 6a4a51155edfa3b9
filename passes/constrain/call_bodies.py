"""Call bodies: a call that is kept whole, and the graphs of what it does inside.

Its map must be right in each of its graphs: in eval mode and in train mode, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxteleport.passes.constrain.fitting import fitted
from fxteleport.passes.domain.cob_map import IDENTITY, CobMap, single
from fxteleport.passes.domain.constraints import Origin, System
from fxteleport.passes.errors import Decline
from fxteleport.passes.rules.call import Operand
from fxteleport.passes.rules.operands import maps_in, pairs_of


class Inside(Protocol):
    """An interpretation of the graphs inside one call, in the same system of constraints."""

    opaque: list[Any]
    wraps: dict[fx.Node, Any]

    @property
    def system(self) -> System:
        """That of the whole model."""

    def within(self, graph: fx.Graph, operands: Sequence[Operand]) -> Any:
        """The output's maps of a graph, for given inputs."""


def interpret(
    inside: Inside, node: fx.Node, value: Any, operands: Sequence[Operand], graphs: Sequence[fx.Graph]
) -> Any:
    """The maps of a call's results, which each of its graphs must give.

    Raises:
        Decline: no rule knows an operation inside, or the structure of the result depends on the mode.
    """
    outs = [inside.within(graph, operands) for graph in graphs]
    if inside.opaque:
        raise Decline(f"inside it, {inside.opaque[0].why}")
    if any(len(maps_in(out)) != len(maps_in(outs[0])) for out in outs):
        raise Decline("it returns another structure in train mode")
    origin = Origin(node.name, "it must agree in train and in eval mode")
    return fitted(value, pytree.tree_map(lambda *cobs: _agreed(inside.system, cobs, origin), *outs))


def _agreed(system: System, cobs: Sequence[CobMap | None], origin: Origin) -> CobMap | None:
    """The one map of a value that several graphs may give; what is zero in one of them need not be in another."""
    known = [cob for cob in cobs if cob is not None]
    whole = next((cob for cob in known if not cob.zeros), None)
    if known and whole is None:
        shape = torch.broadcast_shapes(*(s.shape for cob in known for s, _ in cob.factors))
        whole = single(system.fresh(shape, origin))
    for cob in known:
        system.same(whole, cob, origin)  # type: ignore[arg-type]
    return whole


def obey(
    inside: Inside, node: fx.Node, backward: fx.Graph | str, operands: Sequence[Operand], value: Any, result: Any
) -> None:
    """The backward of a custom function, to which the gradients come in the inverse CoB, must return them so.

    Raises:
        Decline: the backward could not be traced, or no rule knows an operation in it.
    """
    if isinstance(backward, str):
        raise Decline(f"its backward could not be traced: {backward}")
    gradients = [Operand(v, IDENTITY / cob.settled()) for v, cob in pairs_of(value, result)]
    cobs = inside.within(backward, [*operands, *gradients])
    if inside.opaque:
        raise Decline(f"inside its backward, {inside.opaque[0].why}")
    for operand, cob in zip(operands, cobs, strict=True):
        if cob is not None:
            inside.system.same(cob, IDENTITY / operand.map, Origin(node.name, "its backward"))
