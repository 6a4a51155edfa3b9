"""Bodies: the graphs of what a call does inside that is recorded as one node.

A module whose forward reads `self.training` must go on reading it, and a custom autograd function has a backward: the
emitted network calls them unchanged. The graphs of their bodies, in each mode, tell what they do to a CoB.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.autograd_context import AutogradContext
from fxteleport.passes.capture.control_flow import Again, Stores, first_line, raise_if_hashed
from fxteleport.passes.capture.graph_builder import GraphBuilder
from fxteleport.passes.capture.held_objects import HeldObjects
from fxteleport.passes.capture.input_facts import InputFacts
from fxteleport.passes.capture.meta_values import MetaValues, tree_map
from fxteleport.passes.capture.opaque_leaves import Applied
from fxteleport.passes.capture.proxy import trust_of, value_of
from fxteleport.passes.capture.recording_mode import unrecorded
from fxteleport.passes.capture.trace_conditions import TraceConditions
from fxteleport.passes.capture.traced_modules import Table, reassigned
from fxteleport.passes.graph.contents import contents_in
from fxteleport.passes.graph.guards import GUARDS, insist
from fxteleport.passes.graph.node_info import Trust, info
from fxteleport.passes.graph.ops import leaves_of


class BodyTrace(Protocol):
    """The parts of a tracer that a body's trace needs."""

    @property
    def builder(self) -> GraphBuilder: ...
    @property
    def conditions(self) -> TraceConditions: ...
    @property
    def inputs(self) -> InputFacts: ...
    @property
    def held(self) -> HeldObjects: ...
    def shadow(self) -> nn.Module: ...
    def running(self) -> AbstractContextManager[None]: ...
    def lower(self, x: Any) -> Any: ...
    def finish(self, lowered: Any, out: Any) -> fx.Graph: ...
    def end(self) -> None: ...


class LeafBodies:
    """Traces bodies, and adds their conditions to the trace.

    Args:
        start: begins the trace of a module's forward in a mode.
        opaque: leaf path -> why its body could not be traced; filled here.
    """

    def __init__(
        self,
        start: Callable[[nn.Module, bool], BodyTrace],
        values: MetaValues,
        conditions: TraceConditions,
        inputs: InputFacts,
        opaque: dict[str, str],
    ) -> None:
        self._start, self._values = start, values
        self._conditions, self._inputs, self._opaque = conditions, inputs, opaque

    @unrecorded
    def known(self, path: str, module: nn.Module, args: Any, kwargs: Any, modes: tuple[bool, ...]) -> list[fx.Graph]:
        """The graphs of the call of a leaf, for each value of `self.training`; none where it cannot be traced.

        Raises:
            Stores: it writes to its attributes.
        """
        try:
            return self.of(module, args, kwargs, modes)
        except (Again, Stores):
            raise
        except Exception as error:
            raise_if_hashed(error)
            self._opaque[path] = first_line(error)
            return []

    def of(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], modes: tuple[bool, ...]
    ) -> list[fx.Graph]:
        """As `known`, but raises where a body cannot be traced.

        The placeholders of the graphs are the tensors among the arguments, in order.
        """
        return [self._graph(module, args, kwargs, training) for training in modes]

    def _graph(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> fx.Graph:
        inside = self._start(module, training)
        inputs = tree_map(lambda x: self._given(inside.builder, x), (args, kwargs))
        shadow = inside.shadow()
        if isinstance(shadow, nn.modules.batchnorm._BatchNorm):
            shadow._buffers["num_batches_tracked"] = None  # the leaf of torch's layer counts
        held = [x for x in contents_in(shadow.__dict__) if type(x.container) is not Table]
        with inside.running():
            out = shadow(*inputs[0], **inputs[1])
        left = inside.held.left()
        inside.held.restore()
        if left or reassigned(shadow) or any(x.changed() for x in held):
            raise Stores(f"the forward of a {type(module).__name__} stores what others may read")
        graph = inside.finish(inside.lower(out), out)
        inside.end()
        if any(node.target in GUARDS and node.target is not insist for node in graph.nodes):
            raise RuntimeError("sizes decide what it does, and other inputs may have others")
        self._conditions.add(inside.conditions.nodes)
        self._inputs.add(inside.inputs)
        return graph

    @unrecorded
    def backward(self, function: type[torch.autograd.Function], args: tuple[Any, ...]) -> fx.Graph | str:
        """The graph of a custom autograd function's forward and backward, or why it cannot be traced.

        Its placeholders are the tensors among the arguments, then the gradients of the results; its output is the
        gradients of the arguments.

        The backward need not be the derivative of the forward (surrogate gradients, clipped and reversed ones). It
        obeys Theorem 5.1 if, given gradients with the inverse CoB of the outputs, it returns gradients with the
        inverse CoB of the inputs.
        """
        try:
            return self._backward(function, args)
        except Exception as error:
            raise_if_hashed(error)
            return first_line(error)

    def _backward(self, function: type[torch.autograd.Function], args: tuple[Any, ...]) -> fx.Graph:
        inside = self._start(Applied(function), False)
        inputs = tree_map(lambda x: self._given(inside.builder, x), args)
        tensors = [isinstance(proxy.plain(x), Tensor) for x in inputs]
        context: Any = AutogradContext(tuple(tensors))
        with inside.running():
            if function.setup_context is torch.autograd.Function.setup_context:
                out = function.forward(context, *inputs)
            else:
                out = function.forward(*inputs)
                function.setup_context(context, inputs, out)
            outs = out if isinstance(out, (tuple, list)) else (out,)
            results: Any = function.backward(context, *[self._gradient(inside.builder, x) for x in outs])
        results = results if isinstance(results, tuple) else (results,)
        wanted = tuple(x for x, is_tensor in zip(results, tensors, strict=False) if is_tensor)
        graph = inside.finish(inside.lower(wanted), wanted)
        inside.end()
        if any(node.target in GUARDS for node in graph.nodes):
            raise RuntimeError("sizes or data decide what it does")
        return graph

    def _given(self, builder: GraphBuilder, x: Any) -> Any:
        """An argument of a body's graph: a placeholder for a tensor, and for a number that depends on the run."""
        if not proxy.is_proxy(x):
            return self._placeholder(builder, x, x) if isinstance(x, Tensor) else x
        if not any(isinstance(value, Tensor) for value in leaves_of(value_of(x))):
            return self._placeholder(builder, x, value_of(x))
        return tree_map(lambda v: self._placeholder(builder, x, v) if isinstance(v, Tensor) else v, value_of(x))

    def _gradient(self, builder: GraphBuilder, out: Any) -> Any:
        """The gradient of an output."""
        value = proxy.plain(out)
        return self._placeholder(builder, out, value) if isinstance(value, Tensor) else None

    def _placeholder(self, builder: GraphBuilder, x: Any, value: Any) -> Any:
        """A placeholder for `x`, or for a part of it."""
        if isinstance(value, Tensor):
            value = self._values.stand_in(value) if value.is_meta else value.clone()
        return builder.placeholder("given", value, trust_of(x) if proxy.is_proxy(x) else Trust.KNOWN)


def value_of_body(graph: fx.Graph) -> tuple[Any, Trust]:
    """The value of a body's output, and what may be concluded from it."""
    out = graph.output_node()
    return info(out).value, max((info(node).trust for node in out.all_input_nodes), default=Trust.KNOWN)
