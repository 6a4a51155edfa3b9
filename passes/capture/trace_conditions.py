"""The conditions of a trace, collected while it runs."""

from __future__ import annotations

from collections.abc import Container, Iterable

from torch import fx

from fxteleport.passes.capture.call_stack import CallStack
from fxteleport.passes.graph.conditions import Condition
from fxteleport.passes.graph.source_location import Line, calling_line, quoted


class TraceConditions:
    """The conditions of a trace, each with the node whose value was read, if any."""

    def __init__(self, stack: CallStack) -> None:
        self._stack = stack
        self.nodes: dict[Condition, fx.Node | None] = {}

    def note(
        self, kind: str, value: str, node: fx.Node | None = None, path: str | None = None, line: Line | None = None
    ) -> None:
        """Note a condition, under which the graph and the scaled weights are right.

        Args:
            path, line: the module and the line that read the value; those that are running by default.
        """
        path = self._stack.path if path is None else path
        name = "" if node is None else node.name
        self.nodes.setdefault(Condition(kind, name, path, quoted(line or calling_line()), value), node)

    def add(self, conditions: Iterable[Condition]) -> None:
        """Add the conditions of another trace, whose nodes are not in this graph."""
        for condition in conditions:
            self.nodes.setdefault(condition, None)

    def keep_only(self, nodes: Container[fx.Node]) -> None:
        """Forget the conditions of erased nodes."""
        self.nodes = {c: node for c, node in self.nodes.items() if node is None or node in nodes}
