"""Proxies that carry the value of their node.

What goes in: a node, its trace and its value. What comes out: an object that stands for the node while Python runs the
model's `forward`. It answers what Python insists on knowing (`bool`, `len`, `int`, `hasattr`; `isinstance` through
`patching.py`) from the value, and records everything else as a node, so that shapes which no branch depends on stay
symbolic. One class for each kind of value, because Python looks for methods on the class. Open `base.py` first.
"""

from fxteleport.passes.capture.proxy import operators
from fxteleport.passes.capture.proxy.access import (
    find_trace,
    is_left,
    is_proxy,
    node_of,
    own_of,
    plain,
    rebind,
    trace_of,
    trust_of,
    value_of,
)
from fxteleport.passes.capture.proxy.base import Method, NumericProxy, Proxy
from fxteleport.passes.capture.proxy.containers import DictProxy, ObjectProxy, SequenceProxy
from fxteleport.passes.capture.proxy.making import make
from fxteleport.passes.capture.proxy.numbers import FloatProxy, IntProxy, NumberProxy, SettledProxy
from fxteleport.passes.capture.proxy.overriding import of_own, overridden, past
from fxteleport.passes.capture.proxy.tensor import TensorProxy

__all__ = [
    "DictProxy",
    "FloatProxy",
    "IntProxy",
    "Method",
    "NumberProxy",
    "NumericProxy",
    "ObjectProxy",
    "Proxy",
    "SequenceProxy",
    "SettledProxy",
    "TensorProxy",
    "find_trace",
    "is_left",
    "is_proxy",
    "make",
    "node_of",
    "of_own",
    "operators",
    "overridden",
    "own_of",
    "past",
    "plain",
    "rebind",
    "trace_of",
    "trust_of",
    "value_of",
]
