"""The maps of the nodes of a graph, and a node's arguments as its rule sees them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

from fxteleport.passes.constrain.parameter_maps import ParameterMaps
from fxteleport.passes.constrain.rule_context import RuleContext
from fxteleport.passes.domain.cob_map import IDENTITY, structural_zeros
from fxteleport.passes.domain.constraints import Origin
from fxteleport.passes.domain.size import Size
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.record import record
from fxteleport.passes.rules.operand import Operand, Unknown, carries
from fxteleport.passes.rules.operands import of_nodes, operands_in
from fxteleport.passes.rules.shape_functions import Sized


@record()
class Reference:
    """The map of a `get_attr` node: decided by the first use of the parameter that it names."""

    name: str


class NodeMaps(dict[fx.Node, Any]):
    """Node -> its map (a tuple, list... of them, None where there is no tensor)."""

    def __init__(self, context: RuleContext) -> None:
        super().__init__()
        self._context = context

    def convert(self, x: Any) -> Any:
        """A node's argument structure: operands for tensors, plain values for the rest."""
        return of_nodes(x, self._seen)

    def operands(self, node: fx.Node, but: Collection[Any] = ()) -> list[Operand]:
        """The tensors among a node's arguments, but for those of some nodes."""
        if not but:
            return operands_in((self.convert(node.args), self.convert(node.kwargs)))
        return operands_in(of_nodes((node.args, node.kwargs), lambda n: None if n in but else self._seen(n)))

    def _seen(self, node: fx.Node) -> Any:
        return self._view(info(node).value, self.get(node), self._context.sizing.current(node))

    def _view(self, value: Any, cob: Any, sized: Any) -> Any:
        """A value with its map as a rule sees it: numbers that other inputs change are `Unknown`, indices are meta."""
        if isinstance(value, Tensor):
            if isinstance(cob, Reference):
                return self._context.parameters.operand(cob.name)
            cob = cob if cob is not None else IDENTITY
            if type(sized) is not Sized:
                return Operand(value, cob)
            return Operand(value.to("meta") if sized.uncertain else value, cob, sizes=sized.sizes)
        if isinstance(value, (tuple, list)):
            parts = sized if isinstance(sized, list) else [None] * len(value)
            return [self._view(v, None if cob is None else cob[i], parts[i]) for i, v in enumerate(value)]
        if isinstance(value, dict):
            held = sized if isinstance(sized, dict) else {}
            return {k: self._view(v, None if cob is None else cob[k], held.get(k)) for k, v in value.items()}
        return Unknown(value, sized) if type(sized) is Size else value


def attribute_map(parameters: ParameterMaps, node: fx.Node, value: Any) -> Any:
    """The map of a parameter, a buffer, a constant or another attribute that the graph reads."""
    name = str(node.target)
    if name in parameters and carries(value):
        if info(node).is_aliased and not info(node).state:
            parameters.pin(parameters.operand(name), Origin(node.name, "the network writes to it"))
        return Reference(name)
    if isinstance(value, Tensor) and carries(value) and value.layout is torch.strided and not value.any():
        return structural_zeros(value.ndim)  # the first state of a recurrent network, say
    return IDENTITY if isinstance(value, Tensor) else None
