"""Proxies of numbers, mostly sizes."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch

from fxteleport.passes.capture.identity import set_class
from fxteleport.passes.capture.proxy.base import NumericProxy
from fxteleport.passes.capture.proxy.overriding import Overriding


class NumberProxy(NumericProxy):
    """An int or a float, mostly a size; what Python decides by it is specialised.

    The argument parser of torch's functions calls `__index__` of numbers of unknown classes, which would specialise
    them. Symbolic numbers it passes on to `recording_mode.Recording`: so these are subclasses of torch's (`IntProxy`,
    `FloatProxy`).
    """

    __slots__ = ()

    @property
    def __class__(self) -> Any:
        """The class of the value, for Python's `match` and code that reads `__class__`."""
        return type(self._value)

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        set_class(self, kind)

    def __bool__(self) -> bool:
        return bool(self._trace.record("call_function", operator.truth, (self,), {}))

    def __hash__(self) -> int:
        return self._trace.values.hashed(self)

    def __ceil__(self) -> Any:
        return self._trace.record("call_function", math.ceil, (self,), {})

    def __floor__(self) -> Any:
        return self._trace.record("call_function", math.floor, (self,), {})

    def __trunc__(self) -> Any:
        return self._trace.record("call_function", math.trunc, (self,), {})

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """For numpy's functions: `np.sqrt(x.shape[-1])`."""
        return np.asarray(self._trace.values.forced(self, self._value), dtype=dtype)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __round__(self, digits: int | None = None) -> Any:
        return self._trace.record("call_function", round, (self, digits), {})


class _Constant:
    """The node of a symbolic number, by which torch's C++ code reads the number itself."""

    def __init__(self, handle: NumberProxy) -> None:
        self.handle = handle

    def is_int(self) -> bool:
        return isinstance(self.handle._value, int)

    def is_float(self) -> bool:
        return isinstance(self.handle._value, float)

    def is_bool(self) -> bool:
        return False

    def is_symbolic(self) -> bool:
        return False

    def is_nested_int(self) -> bool:
        return False

    def maybe_as_int(self) -> int:
        return int(self.handle)

    def guard_int(self, file: str, line: int) -> int:
        return int(self.handle)

    def guard_float(self, file: str, line: int) -> float:
        return float(self.handle)


class IntProxy(NumberProxy, torch.SymInt):
    """A whole number."""

    __slots__ = ()

    @property
    def node(self) -> Any:  # type: ignore[override]
        return _Constant(self)


class FloatProxy(NumberProxy, torch.SymFloat):  # type: ignore[misc]
    """A number with fractions."""

    __slots__ = ()

    @property
    def node(self) -> Any:  # type: ignore[override]
        return _Constant(self)


class SettledProxy(Overriding, NumberProxy):
    """A number whose trace has ended, in a global table, say: any function takes it as a plain number."""
