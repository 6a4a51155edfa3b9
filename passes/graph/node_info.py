"""What the passes know of a node: one frozen record each, and the only place that touches `node.meta`.

Capture writes the record as it appends a node, and completes it when the graph is finished. Rewriting gives the nodes
of an emitted network records of their own, without values: those are of the example inputs. torch's own keys (`"val"`,
`"stack_trace"`) are not set: none of its tools is run on these graphs.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from fxteleport.passes.graph.source_location import Line

_KEY = "fxteleport"


class Trust(enum.IntEnum):
    """What may rest on a value.

    Attributes:
        KNOWN: everything.
        EXAMPLE: what the example inputs give. A branch may rest on it, with a guard.
        GUESS: made-up data gave it. Only the structure may rest on it (how many items a tuple has), with a guard.
        RAGGED: made-up data gave it, and other data another structure. Nothing may rest on it.
    """

    KNOWN = 0
    EXAMPLE = 1
    GUESS = 2
    RAGGED = 3


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """The facts of one node.

    Attributes:
        value: what the node computes: a meta tensor where it depends on an input or a parameter, the real value of
            sizes and constants. An emitted network's nodes have none.
        trust: what may rest on the value.
        path: the module whose `forward` made the call.
        source: the line of the model's code that made it.
        has_effect: the node writes to a tensor, checks something, switches a mode, or draws random numbers that nothing
            uses: it is never dead code.
        is_aliased: its tensor is written in place and read elsewhere: through another view, by the next run, or by the
            caller.
        state: of such a one that is the model's own, and written and read as a whole only: its name. What it holds for
            the next run has the CoB that it had for this one.
        records_gradients: whether forward had gradients recorded, or not; None: as outside.
        is_idle_dropout: a dropout layer in place of a functional one that did not drop. Train mode tells whether it is
            one that drops there.
        follows_mode: False for the normalisation inside a batch norm that takes another mode than the layer's own.
        captured: of an emitted network's node, the name of the captured node whose operation it does.
        restores: of a node that rewriting added, the name of the captured node whose value it gives back.
        slot: how rewriting may wrap the node (`rewrite.wraps.Slot`).
    """

    value: Any = None
    trust: Trust = Trust.KNOWN
    path: str = ""
    source: Line | None = None
    has_effect: bool = False
    is_aliased: bool = False
    state: str = ""
    records_gradients: bool | None = None
    is_idle_dropout: bool = False
    follows_mode: bool = True
    captured: str = ""
    restores: str = ""
    slot: Any = None


_NOTHING = NodeInfo()


def info(node: fx.Node) -> NodeInfo:
    """What is known of a node; of one of another origin (a user's own rewriting), nothing."""
    return node.meta.get(_KEY, _NOTHING)  # type: ignore[no-any-return]


def exported_value(node: fx.Node) -> Any:
    """What `torch.export` knows of a node of a program's: a fake tensor, a symbolic number, a plain value."""
    return node.meta["val"]


def describe(node: fx.Node, known: NodeInfo) -> None:
    """Set what is known of a node."""
    node.meta[_KEY] = known


def update(node: fx.Node, **facts: Any) -> None:
    """Change some of what is known of a node."""
    node.meta[_KEY] = replace(info(node), **facts)


def is_described(node: fx.Node) -> bool:
    """True for a node that a pass has described."""
    return _KEY in node.meta


def name_apart(nodes: Iterable[fx.Node], kind: str) -> None:
    """Give nodes of another graph names that no node of the first has."""
    for node in nodes:
        node._rename(f"{node.name}_{kind}")


def describe_copy(node: fx.Node, name: str) -> None:
    """Describe a node of an emitted network that is a copy of the node `name` of a captured graph, or of a network's.

    A copy may be named anew, so it keeps the name of the captured node.
    """
    old = info(node)
    known = NodeInfo(
        path=old.path,
        source=old.source,
        has_effect=old.has_effect,
        captured=old.captured or ("" if old.restores else name),
        restores=old.restores,
        slot=old.slot,
    )
    node.meta.clear()
    describe(node, known)
