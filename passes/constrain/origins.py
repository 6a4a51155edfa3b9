"""Origins: for each node, the nearest tensor that it is a function of alone, through operations that have a form."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, fx, nn

from fxteleport.passes.graph.leaf_modules import changes_gradients, hooked
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.ops import leaves_of
from fxteleport.passes.rules.operand import carries, is_dense
from fxteleport.passes.rules.registry import Rule, lookup


class Origins:
    """The origins of the nodes of one graph.

    The chain of a node's origins is every tensor from which a region may lead to it.

    Attributes:
        nearest: node -> its origin, for those that have one.
        rules: node -> its rule, for the same.
    """

    def __init__(self, graph: fx.Graph, modules: Mapping[str, nn.Module]) -> None:
        self.nearest: dict[fx.Node, fx.Node] = {}
        self.rules: dict[fx.Node, Rule] = {}
        self._depth: dict[fx.Node, int] = {}
        self._modules = modules
        for node in graph.nodes:
            self._trace_back(node)

    def chain(self, node: fx.Node) -> Iterator[fx.Node]:
        """The tensors of which a node is a function, from the nearest on."""
        while node in self.nearest:
            node = self.nearest[node]
            yield node

    def _trace_back(self, node: fx.Node) -> None:
        self._depth[node] = 0
        rule = self._rule_of(node)
        if rule is None:
            return
        given = [x for x in node.all_input_nodes if not is_constant(x)]
        if not given:
            return
        origin = given[0]
        for other in given[1:]:
            common = self._common(origin, other)
            if common is None:
                return
            origin = common
        self.nearest[node], self.rules[node] = origin, rule
        self._depth[node] = self._depth[origin] + 1

    def _rule_of(self, node: fx.Node) -> Rule | None:
        """The rule of a node that a region may hold."""
        if is_part(node):
            rule = self.rules.get(node.args[0])  # type: ignore[arg-type]
        elif node.op == "call_module":
            module = self._modules.get(str(node.target))
            rule = None if module is None else lookup(node.op, module)
            if module is None or module._parameters or module._buffers or changes_gradients(module) or hooked(module):
                return None
        else:
            rule = lookup(node.op, node.target) if node.op in ("call_function", "call_method") else None
        if rule is None or rule.form is None or _is_refused(node):
            return None
        value = info(node).value
        parts = value if isinstance(value, tuple) else (value,)
        return rule if all(map(_may_be_inside, parts)) else None

    def _common(self, a: fx.Node, b: fx.Node) -> fx.Node | None:
        """The nearest tensor of which two are functions."""
        while a is not b:
            if self._depth[a] < self._depth[b]:
                a, b = b, a
            if a not in self.nearest:
                return None
            a = self.nearest[a]
        return a


def _may_be_inside(x: Any) -> bool:
    """True for a tensor of which a region may consist."""
    return (
        isinstance(x, Tensor) and x.is_floating_point() and carries(x) and is_dense(x) and x.is_meta and x.numel() > 0
    )


def _is_refused(node: fx.Node) -> bool:
    """True for a value that is written to, or that depends on data through Python."""
    known = info(node)
    return known.has_effect or known.is_aliased or bool(known.trust)


def is_constant(node: fx.Node) -> bool:
    """True for numbers, and for tensors whose values are those of every run."""
    value = info(node).value
    if type(value) is Tensor:
        return not value.is_meta
    return not any(isinstance(x, Tensor) and x.is_meta for x in leaves_of(value))


def is_part(node: fx.Node) -> bool:
    """True for one tensor of several that a call gives."""
    source = node.args[0] if node.target is operator.getitem else None
    return isinstance(source, fx.Node) and isinstance(info(source).value, tuple)
