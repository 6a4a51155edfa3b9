"""Data guards of a finished graph: finding them, and moving them before all other nodes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from torch import Tensor, fx

from fxteleport.passes.capture.mutation import memory_of_attributes, memory_of_inputs
from fxteleport.passes.graph.guards import GUARDS, expect_data
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.storage import memory


def data_guards(graph: fx.Graph) -> list[fx.Node]:
    """The guards on branches that the example's data decided, in the order of the trace."""
    return graph.find_nodes(op="call_function", target=expect_data, sort=True)  # type: ignore[no-any-return]


def deciding(guards: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes that guards depend on."""
    found: set[fx.Node] = set()
    waiting = [source for guard in guards for source in guard.all_input_nodes]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def hoist(
    graph: fx.Graph,
    mutations: Iterable[tuple[fx.Node, Tensor]],
    writes: Callable[[fx.Node], bool],
    draws: Callable[[fx.Node], bool],
) -> bool:
    """Have the data guards run first, so that a network refuses before it has computed, drawn or written anything.

    Returns:
        True if the guards run first or, where they cannot be moved, nothing is written before them but tensors that
        the run itself creates: then another variant can start over.

    Args:
        mutations: the nodes that write to tensors, each with such a tensor.
        writes: tells whether a call of a module may write to anything.
        draws: tells whether a call draws random numbers, in either mode.
    """
    guards = data_guards(graph)
    needed = deciding(guards)
    if any(_has_its_place(node) or writes(node) or draws(node) for node in needed):
        before = itertools.takewhile(lambda node: node is not guards[-1], graph.nodes)
        left = _left(graph, mutations)
        return not any(node in left or writes(node) for node in before)
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    while last.next.target in GUARDS and last.next.target is not expect_data and _is_of_inputs(last.next):
        last = last.next
    for node in [n for n in graph.nodes if n in needed or n in guards]:
        if node.op != "placeholder":
            last.append(node)
            last = node
    return True


def _is_of_inputs(guard: fx.Node) -> bool:
    return all(source.op == "placeholder" for source in guard.all_input_nodes)


def _has_its_place(node: fx.Node) -> bool:
    known = info(node)
    is_written = any(info(user).has_effect and user.target not in GUARDS for user in node.users)
    return known.has_effect or known.is_aliased or is_written


def _left(graph: fx.Graph, mutations: Iterable[tuple[fx.Node, Tensor]]) -> set[fx.Node]:
    """The nodes with an effect outside the run: not those that only write into tensors which the run creates."""
    outside = memory_of_inputs(graph) | memory_of_attributes(graph)
    written: dict[fx.Node, set[int]] = {}
    for writer, tensor in mutations:
        written.setdefault(writer, set()).update(memory(tensor))
    effects = [node for node in graph.nodes if info(node).has_effect and node.target not in GUARDS]
    return {node for node in effects if node not in written or not outside.isdisjoint(written[node])}
