"""Expressions: value numbering, which tells whether two nodes of a trace compute the same from the same."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxteleport.passes.graph.containers import kind_of, parts
from fxteleport.passes.graph.guards import GUARDS
from fxteleport.passes.graph.node_info import info


class Expressions:
    """Numbers nodes; nodes that compute the same value have the same number."""

    def __init__(self) -> None:
        self._known: dict[fx.Node, int] = {}
        self._numbers: dict[Any, int] = {}

    def number(self, node: fx.Node) -> int:
        """The number of a node's value. Devices are ignored; a tensor that is written to gets a new number."""
        if node not in self._known:
            self._known[node] = self._numbers.setdefault(self._form(node), len(self._numbers))
        return self._known[node]

    def _form(self, node: fx.Node) -> Any:
        if node.op not in ("call_function", "call_method") or info(node).has_effect or _meets_writes(node):
            return node
        if node.target is getattr and node.args[1] == "device":
            return "device"
        return node.op, node.target, self._of(node.args), self._of(node.kwargs)

    def _of(self, x: Any) -> Any:
        if isinstance(x, fx.Node):
            return self.number(x)
        if (kind := kind_of(type(x))) is not None:
            return kind, tuple((key, self._of(value)) for key, value in parts(x))
        return type(x), repr(x)


def _meets_writes(node: fx.Node) -> bool:
    """True where a tensor that a node takes is written to."""
    users = (user for source in node.all_input_nodes for user in source.users)
    return any(info(user).has_effect and user.target not in GUARDS for user in users)
