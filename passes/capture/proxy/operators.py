"""Python's operators on tensors and numbers, and the attributes of torch's symbolic numbers, set on the classes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor

from fxteleport.passes.capture.proxy.base import Proxy
from fxteleport.passes.capture.proxy.numbers import FloatProxy, IntProxy, NumberProxy
from fxteleport.passes.capture.proxy.tensor import TensorProxy


def _binary(fn: Callable[..., Any], reflected: bool) -> Callable[..., Any]:
    def method(self: Proxy, other: Any) -> Any:
        if other is None or isinstance(other, (str, bytes)):  # a text is repeated by a number
            return NotImplemented
        turned = reflected and not (fn is operator.mul and isinstance(other, Tensor))  # torch's own is the product
        args = (other, self) if turned else (self, other)
        return self._trace.record("call_function", fn, args, {})

    return method


def _inplace(fn: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Proxy, other: Any) -> Any:
        self._trace.record("call_function", fn, (self, other), {})
        return self  # Python rebinds the name to what is returned: the same handle, now at the new node

    return method


def _unary(fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self: self._trace.record("call_function", fn, (self,), {})


_ARITHMETIC = "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift".split()
_COMPARISON = "eq ne lt le gt ge".split()


def _of_value(name: str) -> property:
    return property(lambda self: Proxy.__getattr__(self, name))


for _kind in (TensorProxy, NumberProxy):
    for _name in _ARITHMETIC:
        _bare = _name.rstrip("_")
        setattr(_kind, f"__{_bare}__", _binary(getattr(operator, _name), reflected=False))
        setattr(_kind, f"__r{_bare}__", _binary(getattr(operator, _name), reflected=True))
        if _kind is TensorProxy:
            setattr(_kind, f"__i{_bare}__", _inplace(getattr(operator, f"i{_bare}")))
    for _name in _COMPARISON:
        setattr(_kind, f"__{_name}__", _binary(getattr(operator, _name), reflected=False))
    for _name in ("neg", "pos", "abs", "invert"):
        setattr(_kind, f"__{_name}__", _unary(getattr(operator, _name)))


# Methods of torch's symbolic numbers that must use the value here.
for _kind in (IntProxy, FloatProxy):
    for _name in set(dir(_kind)) - set(dir(NumberProxy)) - {"node"}:
        if not _name.startswith("_"):
            setattr(_kind, _name, _of_value(_name))
