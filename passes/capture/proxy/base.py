"""The base of all proxies: a node under construction and its value."""

from __future__ import annotations

import operator
import sys
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.capture.identity import asks_for_class, compares_types, set_class
from fxteleport.passes.capture.protocols import Trace
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.source_location import asking_frame

# The rank never changes with the batch size, so these are constants of the graph.
_RANK = frozenset({"dim", "ndimension"})
_SYMBOLIC_PROPERTIES = frozenset({"shape", "dtype", "device"})
_HISTORY = frozenset({"grad_fn", "is_leaf"})  # whether gradients of a computation are recorded
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

    @property
    def __class__(self) -> Any:
        """The class of the value, to code of the model's own that reads it."""
        if not asks_for_class(sys._getframe(1)):
            return type(self)
        return nn.Parameter if self._trace.tensors.is_parameter(self) else type(self._value)

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        set_class(self, kind)

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
            found = self._trace.record("call_function", getattr, (self, name), {})
            if name == "dtype" and (frame := asking_frame()) is not None and compares_types(frame.f_code):
                return self._trace.values.forced(found, self._value.dtype)  # no object is asked whether it is another
            return found
        value = getattr(self._value, name)  # AttributeError is the right answer where there is none
        if isinstance(self._value, Tensor):
            if name == "ndim":
                return self._trace.inputs.ranked(value)
            if name in _RANK:
                return lambda: self._trace.inputs.ranked(self._value.dim())
            if name == "requires_grad":
                return self._trace.requires_grad(self._node, sys._getframe(1))
            if name in _HISTORY:
                return self._history(name, sys._getframe(1))
            if name in _PLACES:
                return name == f"is_{self._trace.device.type}"  # a meta tensor stands for one over there
        if callable(value):
            return Method(self, name)
        if isinstance(value, Tensor) or not isinstance(self._value, Tensor):
            return self._trace.record("call_function", getattr, (self, name), {})
        return value

    def _history(self, name: str, frame: FrameType) -> bool | None:
        """What a tensor says of the computation that it comes from.

        Raises:
            RuntimeError: code asks for the function that a gradient comes from, and there is one.
        """
        if self._node.op == "get_attr" or frame.f_globals.get("__name__", "").startswith("torch."):
            return name == "is_leaf" or None
        # Not of the frame that asks: what follows there is not a branch by this answer.
        recorded = self._trace.requires_grad(self._node, sys._getframe())
        if recorded and name == "grad_fn":
            raise RuntimeError("its forward asks for the function that a gradient comes from")
        return not recorded if name == "is_leaf" else None


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
