"""The guards of a trace on the values of its nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from fxteleport.passes.capture.call_stack import CallStack
from fxteleport.passes.graph.guards import expect, expect_form, expect_gradient, expect_type, guard, insist
from fxteleport.passes.graph.node_info import info


class TraceGuards:
    """Appends guards to a graph; their messages name the module that read the value."""

    def __init__(self, graph: fx.Graph, stack: CallStack) -> None:
        self._graph, self._stack = graph, stack
        self._fixed: dict[fx.Node, fx.Node] = {}  # the guard of a node's value

    def expect(self, node: fx.Node, value: Any) -> fx.Node:
        """Guard a node's value."""
        return self._add(expect, node, value)

    def insist(self, node: fx.Node, verdict: bool, where: str) -> None:
        """Repeat an assertion of the model's own code, whose condition is a node."""
        guard(self._graph, insist, node, verdict, where)

    def require_gradient(self, node: fx.Node, required: bool) -> None:
        """Guard a parameter's `requires_grad`."""
        guard(self._graph, expect_gradient, node, required, str(node.target))

    def insist_on_form(self, node: fx.Node) -> None:
        """Guard the structure of a result that holds tensors alone."""
        form = _form_of(info(node).value)
        if form is not None:
            guard(self._graph, expect_form, node, form, f"what {node.name} gives")

    def compare(self, node: fx.Node, other: Any, same: bool) -> None:
        """The emitted network refuses a type of tensors that is like another one, or not, where it was otherwise.

        Args:
            other: a type, or the node that gives one.
        """
        guard(self._graph, expect_type, node, other, same, f"{node.name} in {self._stack.where}")

    def fix(self, check: Callable[..., None], node: fx.Node, fact: Any) -> None:
        """As `expect`, with any check; from here on the node's value counts as guarded."""
        self._fixed[node] = self._add(check, node, fact)

    def is_fixed(self, node: fx.Node) -> bool:
        """True where a guard (that was not erased) ensures a node's value."""
        guarding = self._fixed.get(node)
        return guarding is not None and not guarding._erased

    def _add(self, check: Callable[..., None], node: fx.Node, fact: Any) -> fx.Node:
        return guard(self._graph, check, node, fact, f"{node.name} in {self._stack.where}")


def _form_of(value: Any) -> Any:
    """The structure of a value that holds tensors alone, as `expect_form` takes it; None for any other value."""
    if isinstance(value, Tensor):
        return ...
    if type(value) in (list, tuple):
        parts = list(map(_form_of, value))
        return None if None in parts else parts
    if type(value) is dict:
        items = tuple((k, _form_of(v)) for k, v in value.items())
        return None if any(form is None for _, form in items) else items
    return None
