"""Access to a proxy's node, value and trace, and to proxies inside arguments."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxteleport.passes.capture.protocols import Trace
from fxteleport.passes.capture.proxy.base import Proxy
from fxteleport.passes.graph.containers import held, is_record, mapped
from fxteleport.passes.graph.node_info import Trust, info
from fxteleport.passes.graph.structure import PLAIN


def node_of(handle: Proxy) -> fx.Node:
    """The node that a proxy stands for: after its tensor was written to in place, the node that wrote."""
    return handle._node


def value_of(handle: Proxy) -> Any:
    """The value behind a proxy. (A function, because a proxy's attributes are its value's.)"""
    return handle._value


def trace_of(handle: Proxy) -> Trace:
    """The trace that a proxy belongs to."""
    return handle._trace


def trust_of(handle: Proxy) -> Trust:
    """What may be concluded from the value behind a proxy."""
    return info(handle._node).trust


def rebind(handle: Proxy, node: fx.Node, value: Any) -> None:
    """Have a proxy stand for another node."""
    handle._node, handle._value = node, value


def own_of(handle: Proxy) -> Any:
    """The copy of a proxy's value that code has assigned to (`containers.Held`); None for any other proxy."""
    return handle._own


def is_proxy(x: object) -> bool:
    """True for a proxy of a running trace; `isinstance` cannot tell, since a proxy claims its value's class."""
    return issubclass(type(x), Proxy) and not x._trace.finished  # type: ignore[attr-defined]


def is_left(x: object) -> bool:
    """True for a proxy whose trace has ended, in a global table, say: it counts as its value."""
    return issubclass(type(x), Proxy) and x._trace.finished  # type: ignore[attr-defined,no-any-return]


def plain(x: Any) -> Any:
    """The value behind a proxy (also inside containers)."""
    if issubclass(type(x), Proxy):
        return x._value if own_of(x) is None else plain(own_of(x))
    if type(x) in PLAIN or (is_record(x) and find_trace(x) is None):
        return x
    return mapped(x, plain)


def find_trace(x: Any) -> Trace | None:
    """The trace of the first proxy found in an argument structure, or None."""
    if is_proxy(x):  # an object that was assigned to, too
        return x._trace  # type: ignore[no-any-return]
    for value in held(x):
        if type(value) not in PLAIN and (trace := find_trace(value)) is not None:
            return trace
    return None
