"""Call bodies: one call with several graphs of what it does inside (`Captured.branches`).

The call's map must be right in each graph: of eval mode and of train mode, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxteleport.passes.constrain.fitting import fitted
from fxteleport.passes.constrain.node_maps import NodeMaps, Reference
from fxteleport.passes.domain.cob_map import IDENTITY, CobMap, single
from fxteleport.passes.domain.constraints import Origin, System
from fxteleport.passes.errors import Decline
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.rules.operand import Operand
from fxteleport.passes.rules.operands import maps_in, maps_of, pairs_of


class Inside(Protocol):
    """An interpretation of the graphs inside one call, in the same system of constraints."""

    maps: NodeMaps
    opaque: list[Any]
    wraps: dict[fx.Node, Any]

    @property
    def system(self) -> System:
        """The system of the model."""

    def run(self, graph: fx.Graph) -> None:
        """Visit the nodes that have no map yet."""


def whole(
    inside: Callable[[bool], Inside],
    node: fx.Node,
    value: Any,
    operands: Sequence[Operand],
    graphs: Sequence[fx.Graph],
    backward: fx.Graph | str | None,
    full: bool,
) -> tuple[Any, bool]:
    """The maps of the results of one call with bodies, and whether the call is to be wrapped.

    A call from one tensor to one tensor is wrapped where an operation inside would have to be.

    Args:
        inside: makes an interpretation of the graphs; its argument says whether that may wrap nodes.
        backward: the backward of a custom function: its graph, or why there is none.
        full: the call may be wrapped.

    Raises:
        Decline: no rule knows an operation inside.
    """
    plain, first = inside(False), next(iter(node.args), None)
    for operand in operands:
        for axis, _ in operand.folds:
            operand.unfold(plain.system, axis, Origin(node.name, "how many positions there are is not known"))
    is_tensor = isinstance(first, fx.Node) and isinstance(info(first).value, Tensor)
    may_wrap = full and isinstance(value, Tensor) and len(operands) == 1 and is_tensor
    inner = inside(may_wrap)
    result = interpret(inner, node, value, operands, graphs)
    if backward is not None and not may_wrap:
        obey(plain, node, backward, operands, value, result)
        return result, False
    return result, bool(inner.wraps) or backward is not None  # in tau f(x / tau), f's backward sees what it always does


def interpret(
    inside: Inside, node: fx.Node, value: Any, operands: Sequence[Operand], graphs: Sequence[fx.Graph]
) -> Any:
    """The maps of a call's results, which each of its graphs must give.

    Raises:
        Decline: no rule knows an operation inside, or the structure of the result depends on the mode.
    """
    outs = [_within(inside, graph, operands) for graph in graphs]
    if inside.opaque:
        raise Decline(f"inside it, {inside.opaque[0].why}")
    if any(len(maps_in(out)) != len(maps_in(outs[0])) for out in outs):
        raise Decline("it returns another structure in train mode")
    origin = Origin(node.name, "it must agree in train and in eval mode")
    return fitted(value, pytree.tree_map(lambda *cobs: _agreed(inside.system, cobs, origin), *outs))


def _agreed(system: System, cobs: Sequence[CobMap | None], origin: Origin) -> CobMap | None:
    """The common map of a value that each of several graphs computes; a zero of one need not be one of all."""
    known = [cob for cob in cobs if cob is not None]
    common = next((cob for cob in known if not cob.zeros), None)
    if known and common is None:
        shape = torch.broadcast_shapes(*(s.shape for cob in known for s, _ in cob.factors))
        common = single(system.fresh(shape, origin))
    for cob in known:
        system.same(common, cob, origin)  # type: ignore[arg-type]
    return common


def obey(
    inside: Inside, node: fx.Node, backward: fx.Graph | str, operands: Sequence[Operand], value: Any, result: Any
) -> None:
    """Require of a custom function's backward that it maps gradients with inverse CoBs to gradients with inverse CoBs.

    Raises:
        Decline: the backward could not be traced, or no rule knows an operation in it.
    """
    if isinstance(backward, str):
        raise Decline(f"its backward could not be traced: {backward}")
    gradients = [Operand(v, IDENTITY / cob.settled()) for v, cob in pairs_of(value, result)]
    cobs = _within(inside, backward, [*operands, *gradients])
    if inside.opaque:
        raise Decline(f"inside its backward, {inside.opaque[0].why}")
    for operand, cob in zip(operands, cobs, strict=True):
        if cob is not None:
            inside.system.same(cob, IDENTITY / operand.map, Origin(node.name, "its backward"))


def _within(inside: Inside, graph: fx.Graph, operands: Sequence[Operand]) -> Any:
    """The maps of the output of one body, for given inputs."""
    given = [n for n in graph.nodes if n.op == "placeholder" and isinstance(info(n).value, Tensor)]
    if len(given) != len(operands):
        raise Decline("it takes tensors out of an object")
    for node, operand in zip(given, operands, strict=True):
        inside.maps[node] = operand.map if operand.name is None else Reference(operand.name)
    output = graph.output_node()
    inside.maps[output] = None  # the call's own map is what is constrained
    inside.run(graph)
    return maps_of(inside.maps.convert(output.args[0]))
