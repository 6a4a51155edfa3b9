"""Whether gradients are recorded: `torch.no_grad()` and its like inside a forward, as nodes of the graph.

A capture itself runs without gradients, so torch's state does not tell what forward asks for; the contexts that it
enters and leaves do (`patching.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor, fx

from fxteleport.passes.graph.node_info import NodeInfo, describe, info, update
from fxteleport.passes.graph.ops import leaves_of


def switch(recording: bool) -> bool:
    """Switch the recording of gradients on or off. Returns what it was before."""
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(recording)
    return before


def restoring(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a forward that switches: the gradient mode is restored afterwards, also where it raises."""

    @functools.wraps(forward)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            return forward(*args, **kwargs)

    return wrapper


def write_switches(graph: fx.Graph, parameters: Container[Any]) -> None:
    """Insert switches around what forward computes under a gradient mode of its own (`NodeInfo.records_gradients`).

    Only what can have a gradient needs them: tables that a model computes from sizes and buffers do not.

    Args:
        parameters: names of the tensors that can require a gradient.
    """
    differentiable = _differentiable(graph, parameters)
    outer: fx.Node | None = None
    now: bool | None = None
    for node in list(graph.nodes):
        recording = info(node).records_gradients
        if recording is not None:
            update(node, records_gradients=None)
        if recording is now or (node not in differentiable and node.op != "output"):
            continue
        with graph.inserting_before(node):
            switched = graph.call_function(switch, (outer if recording is None else recording,))
        describe(switched, NodeInfo(has_effect=True))
        outer, now = outer or switched, recording


def _differentiable(graph: fx.Graph, parameters: Container[Any]) -> set[fx.Node]:
    """The nodes that compute something which can have a gradient."""
    sources, differentiable = set(), set()
    for node in graph.nodes:
        leaves = leaves_of(info(node).value)
        if not any(issubclass(type(x), Tensor) and x.dtype.is_floating_point for x in leaves):  # a proxy would answer
            continue
        if node.op == "placeholder" or (node.op == "get_attr" and node.target in parameters):
            sources.add(node)
        elif node.op == "call_module" or any(n in sources or n in differentiable for n in node.all_input_nodes):
            differentiable.add(node)
    return differentiable
