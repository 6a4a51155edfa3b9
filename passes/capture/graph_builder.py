"""The graph of one trace: nodes are appended as calls are evaluated, and erased where tracing a part fails."""

from __future__ import annotations

import functools
from collections.abc import Container, Sequence
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.call_stack import CallStack
from fxteleport.passes.capture.gradient_contexts import GradientContexts
from fxteleport.passes.capture.handles import Handles
from fxteleport.passes.capture.meta_values import META
from fxteleport.passes.capture.observed import Observed
from fxteleport.passes.capture.proxy import Proxy
from fxteleport.passes.graph.node_info import NodeInfo, Trust, describe, info, update
from fxteleport.passes.graph.ops import leaves_of
from fxteleport.passes.graph.source_location import calling_line


class GraphBuilder:
    """Appends nodes to a graph. Arguments are lowered already: nodes in place of proxies (`arguments.py`).

    Attributes:
        graph: the graph so far.
        mutations: the nodes that write to tensors, each with such a tensor.
    """

    def __init__(self, handles: Handles, stack: CallStack, gradients: GradientContexts) -> None:
        self.graph = fx.Graph()
        self.graph._graph_namespace.create_name("self", None)  # the generated code's name for the network
        self.mutations: list[tuple[fx.Node, Tensor]] = []
        self._handles, self._stack, self._gradients = handles, stack, gradients

    @property
    def last(self) -> fx.Node | None:
        """The last node so far."""
        return next(iter(reversed(self.graph.nodes)), None)

    def call(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], seen: Observed) -> Proxy:
        """Append the node of an evaluated call; proxies of tensors that it has written to now stand for it."""
        node = self.graph.create_node(op, target, name=_name_of(target) if type(target) in _NAMED else None)
        node.args = args  # given to `create_node`, fx would search them for symbolic sizes, at twice the time
        if kwargs:
            node.kwargs = kwargs
        effect, recording = bool(seen.mutated), self._gradients.recording
        path, line = self._stack.path, calling_line()
        describe(node, NodeInfo(seen.value, seen.trust, path, line, effect, records_gradients=recording))
        for handle in seen.mutated:
            written = proxy.value_of(handle)
            self.mutations.append((node, written))
            if seen.value is written:
                self._handles.move(handle, node)
        if seen.written:
            self._forget(seen.written)
        return self._handles.make(node, seen.value)

    def placeholder(self, name: str, value: Any, trust: Trust = Trust.KNOWN) -> Proxy:
        """Append a placeholder."""
        node = self.graph.placeholder(name)
        describe(node, NodeInfo(value, trust))
        return self._handles.make(node, value)

    def attribute(self, name: str, known: NodeInfo) -> Proxy:
        """Append the node of a tensor that is read by its name."""
        node = self.graph.create_node("get_attr", name)
        describe(node, known)
        return self._handles.make(node, known.value)

    def made(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> fx.Node:
        """Append a node that builds an object from lowered arguments; Python gets no proxy of it."""
        node = self.graph.create_node(op, target, args, kwargs)
        describe(node, NodeInfo(proxy.plain(value)))
        return node

    def reshape_in_place(self, tensor: Tensor, form: Any) -> None:
        """Handle a call that has reshaped a tensor in place: earlier nodes keep the old shape, on the same memory.

        Args:
            form: its shape, strides and offset before.
        """
        before = tensor.as_strided(*form)
        for node in self.graph.nodes:
            value = info(node).value
            if any(x is tensor for x in leaves_of(value)):
                update(node, value=pytree.tree_map(lambda x: before if x is tensor else x, value))

    def _forget(self, containers: Sequence[Any]) -> None:
        """Handle a call that wrote into lists or dictionaries, which no node stands for: they become unreadable."""
        gone = self.graph.placeholder("gone")
        handle = self._handles.make(gone, _GONE)
        self.graph.erase_node(gone)
        for container in containers:
            for key in container if isinstance(container, dict) else range(len(container)):
                container[key] = handle

    def erase_after(self, mark: fx.Node | None) -> Container[fx.Node]:
        """Erase all nodes after one; returns the remaining nodes."""
        for node in reversed(self.graph.nodes):
            if node is mark:
                break
            self.graph.erase_node(node)
        alive = set(self.graph.nodes)
        self.mutations = [m for m in self.mutations if m[0] in alive]
        return alive

    def output(self, lowered: Any, value: Any) -> None:
        """Append the output."""
        self.graph.output(lowered)
        describe(self.graph.output_node(), NodeInfo(value))


_GONE = torch.empty((), device=META)


_NAMED = frozenset({str, BuiltinFunctionType})


@functools.lru_cache(maxsize=4096)
def _name_of(target: Any) -> str:
    """The name that torch.fx derives for a node of this target, without its regular expressions, which are slow."""
    return fx.Graph()._target_to_str(target)
