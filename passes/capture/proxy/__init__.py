"""Proxies that carry the value of their node.

In: a node, its trace and its value. Out: an object that stands for the node while Python runs the model's `forward`.
Where Python needs a concrete answer (`bool`, `len`, `int`, `hasattr`; `isinstance` through `patching.py`), the value
gives it, and the trace is specialised; everything else is recorded as a node, so that shapes on which no branch depends
stay symbolic. There is one class for each kind of value, because Python looks up methods on the class. Open `base.py`
first.
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
