"""Backwards: what the backward of a custom autograd function does, as a graph of its own.

It need not be the derivative of the forward (surrogate gradients, clipped and reversed ones). It obeys Theorem 5.1 if,
given gradients with the inverse CoB of the outputs, it returns gradients with the inverse CoB of the inputs.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from fxteleport.passes.capture import meta_eval, proxy
from fxteleport.passes.capture.leaf_bodies import given, placeholder
from fxteleport.passes.capture.patching import run_by, unrecorded
from fxteleport.passes.graph.guards import GUARDS

if TYPE_CHECKING:
    from fxteleport.passes.capture.tracer import Tracer


class Context:
    """Stands for the `ctx` that torch hands to a function's forward and backward."""

    def __init__(self, needed: tuple[bool, ...]) -> None:
        self.needs_input_grad = needed
        self.saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def _noted(self, *_: Any) -> None:
        """What the forward says of its tensors makes no difference to values."""

    mark_dirty = mark_non_differentiable = set_materialize_grads = save_for_forward = _noted


@unrecorded
def trace_backward(tracer: Tracer, function: type[torch.autograd.Function], args: tuple[Any, ...]) -> fx.Graph:
    """The graph of a call's forward and backward, whose output is the gradients of the tensors among the arguments.

    Its placeholders are those tensors, and then the gradients of the tensors that come out.
    """
    from fxteleport.passes.capture.opaque_leaves import Applied

    inside = type(tracer)(Applied(function), tracer.makes_all, tracer.hashes)
    inside.device, inside.memo, inside.is_inside = tracer.device, tracer.memo, True
    inputs = meta_eval.tree_map(functools.partial(given, inside), args)
    tensors = [isinstance(proxy.plain(x), Tensor) for x in inputs]
    context: Any = Context(tuple(tensors))
    with run_by(inside):
        if function.setup_context is torch.autograd.Function.setup_context:
            out = function.forward(context, *inputs)
        else:
            out = function.forward(*inputs)
            function.setup_context(context, inputs, out)
        outs = out if isinstance(out, (tuple, list)) else (out,)
        results: Any = function.backward(context, *[_gradient(inside, x) for x in outs])
    results = results if isinstance(results, tuple) else (results,)
    wanted = tuple(x for x, is_tensor in zip(results, tensors, strict=False) if is_tensor)
    inside.finish(inside.lower(wanted), wanted)
    inside.end()
    if any(node.target in GUARDS for node in inside.graph.nodes):
        raise RuntimeError("sizes or data decide what it does")
    return inside.graph


def _gradient(inside: Tracer, out: Any) -> Any:
    value = proxy.plain(out)
    return placeholder(inside, out, value) if isinstance(value, Tensor) else None
