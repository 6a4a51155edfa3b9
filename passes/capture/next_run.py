"""The next run: whether it does what the traced run does, although forward has changed attributes or objects."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from fxteleport.passes.capture.control_flow import NextRunAsks
from fxteleport.passes.capture.graph_equality import alike
from fxteleport.passes.capture.model_trace import Traced
from fxteleport.passes.capture.replay import depending, other_sizes, runs
from fxteleport.passes.capture.trace_settings import TraceSettings
from fxteleport.passes.graph.guards import GUARDS
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.ops import reads_size


def next_run_is_alike(traced: Traced, again: Callable[[TraceSettings], Traced]) -> bool:
    """True where a run that starts with what the traced run has left makes the same calls.

    It may have fewer guards (a model that looks at its labels once, and caches the answer): those of the traced run
    hold in every run.

    In eval mode, dropouts may differ in how much they drop; train mode is compared separately.

    Args:
        again: traces the same model on the same inputs.

    Raises:
        NextRunAsks: it asks for the form of inputs, and the traced one does not.
    """
    if traced.is_whole or not (traced.left or traced.objects):  # what is kept whole keeps its state
        return True
    if traced.objects.differs:
        return False
    tracer = traced.tracer
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            next_run = again(replace(tracer.settings, found=traced.late | traced.left, objects=traced.objects))
    except Exception:
        return False
    if traced.objects.arrays and next_run.objects.arrays:  # a run that writes the same again would leave them
        return False
    other = next_run.tracer
    asks_more = other.inputs.rank > tracer.inputs.rank or other.inputs.type > tracer.inputs.type
    if asks_more:
        raise NextRunAsks(other.inputs.rank, other.inputs.type)
    if _goes_stale(traced, next_run):
        return False
    is_alike = functools.partial(
        alike, tracer.graph, other.graph, tracer.additions.held, other.additions.held, less_sure=True,
        remade=next_run.remade,
    )  # fmt: skip
    training = tracer.settings.training
    same = is_alike(drops=training)
    if same and not training and not is_alike():
        tracer.modes.asked |= {path: tracer.modes.at_start(path) for path, _ in traced.left}
    return same


def _goes_stale(traced: Traced, next_run: Traced) -> bool:
    """True where a run of other sizes takes what this one has made of its own.

    Code that makes it anew at other sizes asks about what it has found.
    """
    graph, remade = next_run.tracer.graph, next_run.remade
    asks = any(node.target in GUARDS for node in depending(graph, remade))
    return not asks and any(_varies(traced, remade[node]) for node in _used(graph, remade))


def _used(graph: fx.Graph, remade: Mapping[fx.Node, fx.Node]) -> Iterator[fx.Node]:
    """What a run computes with, of what it has found."""
    for node in remade:
        if any(reached.op == "output" for reached in depending(graph, [node])):
            yield node


def _varies(traced: Traced, node: fx.Node) -> bool:
    """True unless runs of all other sizes that are known make the same of a node."""
    if not _is_of_sizes(node):
        return False
    tracer = traced.tracer
    inputs = [n for n in tracer.graph.nodes if n.op == "placeholder" and isinstance(info(n).value, Tensor)]
    run = functools.partial(runs, tracer.leaves.twins, tracer.leaves.opaque, tracer.graph)
    for shapes in other_sizes(inputs):
        made: list[Any] = []
        if run(shapes, node, {node: lambda x, made=made: made.append(x) or True}):  # type: ignore[misc]
            value = info(node).value
            if not made or not _are_same(made[0], value):
                return True
    return False


def _are_same(a: Any, b: Any) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return type(a) is type(b) and bool(a == b)
    return a.shape == b.shape and not (a.is_meta or b.is_meta) and torch.equal(a, b)


def _is_of_sizes(node: fx.Node) -> bool:
    waiting, seen = [node], set[fx.Node]()
    while waiting:
        node = waiting.pop()
        if reads_size(node):
            return True
        if node not in seen:
            seen.add(node)
            waiting += node.all_input_nodes
    return False
