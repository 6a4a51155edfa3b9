"""In-place operations: what they leave unsound, and dead code that they forbid to remove."""

from __future__ import annotations

from torch import Tensor, fx


def mark_aliases(graph: fx.Graph, mutations: list[tuple[fx.Node, Tensor]]) -> None:
    """Mark tensors that are seen through another view after being written in place."""
    if not mutations:
        return
    order = {node: i for i, node in enumerate(graph.nodes)}
    sharing: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        if isinstance(node.meta.get("val"), Tensor):
            sharing.setdefault(_storage(node.meta["val"]), []).append(node)
    for writer, written in mutations:
        if writer not in order:
            continue
        kin = sharing.get(_storage(written), [])
        after = any(order[user] > order[writer] for node in kin if order[node] < order[writer] for user in node.users)
        if after or writer.meta["val"] is not written:
            for node in kin:
                node.meta["aliased"] = True


def remove_dead(graph: fx.Graph) -> None:
    """Erase nodes that nothing uses and that write nothing."""
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output") and not node.meta.get("keep"):
            graph.erase_node(node)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
