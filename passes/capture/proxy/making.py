"""The proxy of the kind that fits a value."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from fxteleport.passes.capture.protocols import Trace
from fxteleport.passes.capture.proxy.base import Proxy
from fxteleport.passes.capture.proxy.containers import DictProxy, ObjectProxy, SequenceProxy
from fxteleport.passes.capture.proxy.numbers import FloatProxy, IntProxy
from fxteleport.passes.capture.proxy.tensor import TensorProxy


def make(node: fx.Node, trace: Trace, value: Any) -> Proxy:
    """The proxy of the kind that fits the value."""
    kind = _KINDS.get(type(value)) or next((_KINDS[c] for c in type(value).__mro__ if c in _KINDS), ObjectProxy)
    return kind(node, trace, value)


_KINDS: dict[type, type[Proxy]] = {
    Tensor: TensorProxy,
    int: IntProxy,
    float: FloatProxy,
    tuple: SequenceProxy,
    list: SequenceProxy,
    dict: DictProxy,
}
