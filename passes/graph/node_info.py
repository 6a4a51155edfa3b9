"""What the passes know of a node: one frozen record for each. No other file reads or writes `node.meta`.

Capture writes the record as it appends a node, and completes it when the graph is finished. Rewriting gives the nodes
of an emitted network records of their own, without values, which would be those of the example inputs. torch's own
keys (`"val"`, `"stack_trace"`) are not set: none of its tools is run on these graphs.
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
    """What the trace may conclude from a value.

    Attributes:
        KNOWN: anything: all inputs give this value.
        EXAMPLE: the example inputs give it. The trace may take a branch by it, with a guard.
        GUESS: it was computed from invented data. Only its structure may be used (the length of a tuple), with a guard.
        RAGGED: it was computed from invented data, and other data give another structure. Nothing may be used.
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
        trust: what the trace may conclude from the value.
        path: the module whose `forward` made the call.
        source: the line of the model's code that made it.
        has_effect: the node writes to a tensor, checks something, switches a mode, or draws random numbers that nothing
            uses: it is never dead code.
        is_aliased: its tensor is written in place and read elsewhere: through another view, by the next run, or by the
            caller.
        state: the name of the model's own tensor, if it is aliased but written and read only as a whole: then it has
            the same CoB in every run. Otherwise "".
        records_gradients: whether forward switched the recording of gradients on or off here; None: it did neither.
        is_idle_dropout: a dropout layer that stands for a call of a functional one, which dropped nothing. Train
            mode's graph tells whether it drops there.
        follows_mode: False for the normalisation inside a batch norm that uses another mode than the layer's own.
        captured: in an emitted network, the name of the captured node whose operation this one does.
        restores: for a node that rewriting added, the name of the captured node whose value it computes.
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
    """What is known of a node: nothing for one that no pass has described (a user's own edit of the graph)."""
    return node.meta.get(_KEY, _NOTHING)  # type: ignore[no-any-return]


def exported_value(node: fx.Node) -> Any:
    """The value that `torch.export` has for a node of a program: a fake tensor, a symbolic number, a plain value."""
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
    """Rename the nodes of a second graph, so that no name is in both graphs."""
    for node in nodes:
        node._rename(f"{node.name}_{kind}")


def describe_copy(node: fx.Node, name: str) -> None:
    """Describe a node of an emitted network that is a copy of node `name` of a captured graph, or of a network's.

    The copy may have another name, so it records that of the captured node.
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
