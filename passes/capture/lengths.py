"""Lengths of tuples, lists and dictionaries, where Python code reads them."""

from __future__ import annotations

import operator
from collections.abc import Container
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxteleport.passes.capture.assertions import unpacks
from fxteleport.passes.capture.control_flow import DataDependent
from fxteleport.passes.capture.proxy import Proxy, is_left, node_of, trust_of, value_of
from fxteleport.passes.capture.trace_conditions import TraceConditions
from fxteleport.passes.capture.trace_guards import TraceGuards
from fxteleport.passes.graph.guards import expect_keys, expect_length
from fxteleport.passes.graph.node_info import Trust, info
from fxteleport.passes.graph.source_location import asking_frame


class Lengths:
    """Gives lengths, with a guard where other inputs may give others.

    Args:
        opaque: paths of opaque leaves, whose results may depend on sizes in any way.
    """

    def __init__(self, guards: TraceGuards, conditions: TraceConditions, opaque: Container[Any]) -> None:
        self._guards, self._conditions, self._opaque = guards, conditions, opaque

    def unpacked(self, handle: Proxy) -> Any:
        """The value of a tuple, a list or a dictionary, whose length code reads.

        The length gets a guard where sizes or opaque code may decide it, and where the value is a guess.

        Raises:
            DataDependent: the length was seen to depend on the data.
        """
        value, node, trust = value_of(handle), node_of(handle), trust_of(handle)
        if is_left(handle):
            return value
        if trust is Trust.RAGGED:
            raise DataDependent(f"the length of '{node.name}' depends on the data")
        if self._guards.is_fixed(node) or not (trust or self._may_grow(node, value)) or self.takes_apart():
            return value
        if isinstance(value, dict):
            self._guards.fix(expect_keys, node, list(value))
        else:
            self._guards.fix(expect_length, node, len(value))
        self._conditions.note("data" if trust else "number", f"{node.name} has {len(value)} items", node)
        return value

    @staticmethod
    def takes_apart() -> bool:
        """True where Python unpacks the sequence into names, and so checks the length itself."""
        return unpacks(asking_frame())

    def is_unseen(self, handle: Proxy) -> bool:
        """True for a result of code that was not traced."""
        return self._comes_of_opaque(_origin(node_of(handle)))

    def _comes_of_opaque(self, root: fx.Node) -> bool:
        return root.op == "call_module" and root.target in self._opaque

    def _may_grow(self, node: fx.Node, value: Any) -> bool:
        """True where the length may differ for other inputs."""
        root = _origin(node)
        if root.op == "call_module":
            return self._comes_of_opaque(root)
        plainly = type(value) in (tuple, list, dict)  # not a shape, nor a class with so many fields
        return plainly and root.op != "placeholder" and not _gives_as_many(root)


# Calls that return a fixed number of tensors.
_FIXED = frozenset({torch.var_mean, torch.std_mean, torch.frexp, F.multi_head_attention_forward, "frexp", "stride"})
_TOLD: dict[Any, tuple[type, ...]] = {
    **dict.fromkeys((torch.split, torch.split_with_sizes, "split", "split_with_sizes"), (list, tuple)),
    **dict.fromkeys((torch.tensor_split, "tensor_split"), (int, list, tuple)),
}
_EACH = frozenset({torch.meshgrid, torch.broadcast_tensors})  # they return one tensor for each argument


def _gives_as_many(node: fx.Node) -> bool:
    """True for a call that returns the same number of tensors on all inputs."""
    if node.target in _EACH:
        return not any(isinstance(info(n).value, (tuple, list)) for n in node.all_input_nodes)
    return node.target in _FIXED or isinstance((*node.args, None, None)[1], _TOLD.get(node.target, ()))


def _origin(node: fx.Node) -> fx.Node:
    """The call whose result a node is, or is a part of."""
    while node.target in (operator.getitem, getattr) and not isinstance(info(node.args[0]).value, Tensor):  # type: ignore[arg-type]
        node = node.args[0]  # type: ignore[assignment]
    return node
