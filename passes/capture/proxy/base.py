"""The base of all proxies: a node under construction and its value."""

from __future__ import annotations

import operator
import sys
from typing import Any

import torch
from torch import Tensor, fx

from fxteleport.passes.capture.protocols import Trace
from fxteleport.passes.graph.node_info import info

# The rank never changes with the batch size, so these are constants of the graph.
_RANK = frozenset({"dim", "ndimension"})
_SYMBOLIC_PROPERTIES = frozenset({"shape", "dtype", "device"})
_PLACES = frozenset({"is_meta", "is_cpu", "is_cuda", "is_xpu", "is_mps"})
_TEXTUAL = (int, float, str, torch.Size, torch.dtype, torch.device)


_set = object.__setattr__


class Proxy:
    """A node under construction and its value; the base of the kinds below."""

    __slots__ = ("_node", "_trace", "_value")
    _node: fx.Node
    _trace: Trace
    _value: Any
    _own: Any = None  # for `containers.Held`: a copy of the value that code has assigned to

    def __init__(self, node: fx.Node, trace: Trace, value: Any) -> None:
        _set(self, "_node", node)  # subclasses override `__setattr__`
        _set(self, "_trace", trace)
        _set(self, "_value", value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._node.name})"

    def __format__(self, spec: str) -> str:
        """The text of a size or a setting, from which code builds messages and names."""
        known = isinstance(self._value, _TEXTUAL) and not info(self._node).trust
        return format(self._trace.values.said(self) if known else repr(self), spec)

    def __str__(self) -> str:
        return format(self)

    def __copy__(self) -> Proxy:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self._trace.record("call_method", "clone", (self,), {}) if isinstance(self._value, Tensor) else self

    def __getattr__(self, name: str) -> Any:
        if name in _SYMBOLIC_PROPERTIES and isinstance(self._value, Tensor):
            return self._trace.record("call_function", getattr, (self, name), {})
        value = getattr(self._value, name)  # AttributeError is the right answer where there is none
        if isinstance(self._value, Tensor):
            if name == "ndim":
                return self._trace.inputs.ranked(value)
            if name in _RANK:
                return lambda: self._trace.inputs.ranked(self._value.dim())
            if name == "requires_grad":
                return self._trace.requires_grad(self._node, sys._getframe(1))
            if name in _PLACES:
                return name == f"is_{self._trace.device.type}"  # a meta tensor stands for one over there
        if callable(value):
            return Method(self, name)
        if isinstance(value, Tensor) or not isinstance(self._value, Tensor):
            return self._trace.record("call_function", getattr, (self, name), {})
        return value


class Method:
    """A bound method of a proxy: calling it records a `call_method` node."""

    def __init__(self, owner: Proxy, name: str) -> None:
        self.owner, self.name = owner, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.owner._trace.record("call_method", self.name, (self.owner, *args), kwargs)


class NumericProxy(Proxy):
    """A proxy that Python can convert to a number, on which the graph then depends."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return self._trace.values.specialize(self, bool(self._value))

    def __int__(self) -> int:
        return self._trace.values.number(self, int)

    def __float__(self) -> float:
        return self._trace.values.number(self, float)

    def __index__(self) -> int:
        return self._trace.values.number(self, operator.index)
