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
    if isinstance(value, Tensor):
        return TensorProxy(node, trace, value)
    if isinstance(value, int):
        return IntProxy(node, trace, value)
    if isinstance(value, float):
        return FloatProxy(node, trace, value)
    if isinstance(value, (tuple, list)):
        return SequenceProxy(node, trace, value)
    if isinstance(value, dict):
        return DictProxy(node, trace, value)
    return ObjectProxy(node, trace, value)
