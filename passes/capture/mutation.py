"""In-place operations: what they leave unsound, and dead code that they forbid to remove."""

from __future__ import annotations

import operator
from collections.abc import Container
from typing import Any

from torch import Tensor, fx

from fxteleport.passes.capture.meta_eval import Trust, memory_of
from fxteleport.passes.graph.ops import setitem
from fxteleport.passes.graph.storage import memory


def mark_aliases(graph: fx.Graph, mutations: list[tuple[fx.Node, Tensor]], own: Container[Any]) -> None:
    """Mark tensors that are seen through another view after being written in place.

    Those of the model itself, whose names are `own`, are seen by its layers, and by the next run.
    """
    if not mutations:
        return
    order = {node: i for i, node in enumerate(graph.nodes)}
    sharing: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        if isinstance(node.meta.get("val"), Tensor):
            for place in memory(node.meta["val"]):
                sharing.setdefault(place, []).append(node)
    backs = {writer: _put_back(writer) for writer, _ in mutations}
    puts = set().union(*backs.values())
    for writer, written in mutations:
        if writer not in order or (writer in puts and writer.meta["val"] is not written):
            continue  # a view that is put back was written before
        kin = [node for place in memory(written) for node in sharing.get(place, [])]
        readers = {user for node in kin if order[node] < order[writer] for user in node.users} - backs[writer]
        after = any(order[user] > order[writer] for user in readers)
        state = any(node.op == "get_attr" and node.target in own for node in kin)
        if after or state or writer.meta["val"] is not written:
            for node in kin:
                node.meta["aliased"] = True


def _put_back(writer: fx.Node) -> set[fx.Node]:
    """The `x[i] = ...` of an `x[i] += y`: it puts there what is there already, and nothing else sees the view."""
    view = writer.args[0] if writer.args else None
    if not isinstance(view, fx.Node) or view.target is not operator.getitem or set(view.users) != {writer}:
        return set()
    return {user for user in writer.users if user.target is setitem and user.args == (*view.args, writer)}


def forget_stale(graph: fx.Graph, mutations: list[tuple[fx.Node, Tensor]]) -> None:
    """Mark known values as guessed that are written to: only what comes out last is as it was when it was read.

    A buffer that is written to is state, which the next run finds changed: nothing that is made from it is known.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    last = {place: order[writer] for writer, t in mutations if writer in order for place in memory(t)}
    if not last:
        return
    writers = {writer for writer, _ in mutations}
    state: set[fx.Node] = set()
    for node in order:
        value = node.meta.get("val")
        places = memory_of(value) if isinstance(value, Tensor) and not value.is_meta else set()
        written = max((last[place] for place in places if place in last), default=-1)
        if not state.isdisjoint(node.all_input_nodes) or (node.op == "get_attr" and written >= 0):
            state.add(node)
            node.meta["trust"] = Trust.GUESS
        elif written >= 0:
            readers = (user for user in node.users if user not in writers or user.args[:1] != (node,))
            if any(order[user] < written for user in readers):
                node.meta["trust"] = Trust.GUESS


def remove_dead(graph: fx.Graph) -> None:
    """Erase nodes that nothing uses and that write nothing."""
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output") and not node.meta.get("keep"):
            graph.erase_node(node)
