"""In-place operations: marking values that they make unsound, and removing dead code in spite of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Mapping
from typing import Any

from torch import Tensor, fx

from fxteleport.passes.capture.meta_values import tree_map
from fxteleport.passes.graph.node_info import Trust, info, update
from fxteleport.passes.graph.ops import name_of, setitem
from fxteleport.passes.graph.storage import is_same, memory


def mark_aliases(graph: fx.Graph, mutations: list[tuple[fx.Node, Tensor]], own: Container[Any]) -> None:
    """Mark tensors that are seen through another view after being written in place.

    Those of the model itself, whose names are `own`, are seen by its layers, and by the next run; what is written to an
    input is seen by the caller.
    """
    if not mutations:
        return
    given = memory_of_inputs(graph)
    order = {node: i for i, node in enumerate(graph.nodes)}
    sharing: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        if isinstance(value := info(node).value, Tensor):
            for place in _places(node, value):
                sharing.setdefault(place, []).append(node)
    backs = {writer: _put_back(writer) for writer, _ in mutations}
    puts = set().union(*backs.values())
    for writer, written in mutations:
        if writer not in order or (writer in puts and info(writer).value is not written):
            continue  # the write to this view was handled already
        kin = _kin(set(memory(written)), sharing)
        readers = {user for node in kin if order[node] < order[writer] for user in node.users} - backs[writer]
        after = any(order[user] > order[writer] for user in readers)
        state = [node for node in kin if node.op == "get_attr" and node.target in own]
        if after or state or info(writer).value is not written:
            name = (
                str(state[0].target)
                if state and all(is_same(info(node).value, info(state[0]).value) for node in kin)
                else ""
            )
            for node in kin:
                update(node, is_aliased=True, state=name)
        elif not given.isdisjoint(memory(written)):
            update(writer, is_aliased=True)


def memory_of_inputs(graph: fx.Graph) -> set[int]:
    """The memory of the inputs, also of those inside a structure or an object."""
    found: set[int] = set()

    def collect(x: Any) -> Any:
        found.update(memory(x) if isinstance(x, Tensor) else ())
        return x

    for node in graph.nodes:
        if node.op == "placeholder":
            tree_map(collect, info(node).value)
    return found


def memory_of_attributes(graph: fx.Graph) -> set[int]:
    """The memory of the parameters, buffers and constants that a graph reads."""
    values = (info(node).value for node in graph.nodes if node.op == "get_attr")
    return set().union(*(memory(x) for x in values if isinstance(x, Tensor)))


# Operations that return a view or a copy, depending on sizes and strides.
_MAYBE_VIEWS = frozenset({"reshape", "reshape_as", "flatten", "ravel", "contiguous", "unflatten"})


def _places(node: fx.Node, value: Tensor) -> set[int]:
    """The memory that a node's value lies in, or would with other sizes."""
    places = set(memory(value))
    source = node.args[0] if name_of(node.target) in _MAYBE_VIEWS and node.args else None
    if isinstance(source, fx.Node) and isinstance(held := info(source).value, Tensor):
        places |= _places(source, held)
    return places


def _kin(places: set[int], sharing: Mapping[int, list[fx.Node]]) -> list[fx.Node]:
    """The nodes whose values may lie in some memory, or in what those lie in."""
    found: dict[fx.Node, None] = {}
    waiting = list(places)
    while waiting:
        for node in sharing.get(waiting.pop(), []):
            if node not in found:
                found[node] = None
                waiting += _places(node, info(node).value)
    return list(found)


def _put_back(writer: fx.Node) -> set[fx.Node]:
    """The `x[i] = ...` of an `x[i] += y`: it writes a value that is there already, and nothing else reads the view."""
    view = writer.args[0] if writer.args else None
    if not isinstance(view, fx.Node) or view.target is not operator.getitem or set(view.users) != {writer}:
        return set()
    return {user for user in writer.users if user.target is setitem and user.args == (*view.args, writer)}


def forget_stale(
    graph: fx.Graph, mutations: list[tuple[fx.Node, Tensor]], memory_of: Callable[[Tensor], set[int]]
) -> None:
    """Mark known values in memory that is written to as guesses: a value was recorded before later writes.

    A buffer that is written to is state, which the next run finds changed: no value computed from it is known.

    Args:
        memory_of: the memory of a constant, and of its meta tensor.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    last = {place: order[writer] for writer, t in mutations if writer in order for place in memory(t)}
    if not last:
        return
    writers = {writer for writer, _ in mutations}
    state: set[fx.Node] = set()
    for node in order:
        value = info(node).value
        places = memory_of(value) if isinstance(value, Tensor) and not value.is_meta else set()
        written = max((last[place] for place in places if place in last), default=-1)
        if not state.isdisjoint(node.all_input_nodes) or (node.op == "get_attr" and written >= 0):
            state.add(node)
            update(node, trust=Trust.GUESS)
        elif written >= 0:
            readers = (user for user in node.users if user not in writers or user.args[:1] != (node,))
            if any(order[user] < written for user in readers):
                update(node, trust=Trust.GUESS)


def remove_dead(graph: fx.Graph, draws: Callable[[fx.Node], bool]) -> None:
    """Erase nodes that nothing uses, unless they write or draw random numbers (later calls draw the next ones)."""
    for node in reversed(graph.nodes):
        if node.users or node.op in ("placeholder", "output") or info(node).has_effect:
            continue
        if draws(node):
            update(node, has_effect=True)
        else:
            graph.erase_node(node)
