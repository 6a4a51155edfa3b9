"""Conversions: `int(n / 2)`, `float(n)` and `len(x)` stay functions of sizes, though Python makes numbers there.

Python lets `int` return nothing but an int. So a function that converts a size is traced again with changed code, for
the time of that trace: `int`, `float` and `len` are renamed in it to functions that record the call. `float(y)` of a
tensor of activations is recorded so, too, as `y.item()`.
"""

from __future__ import annotations

import builtins
import dis
import gc
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.control_flow import DataDependent

_KINDS: tuple[Callable[..., Any], ...] = (int, float, len)
_lock = threading.RLock()
_uses: dict[FunctionType, tuple[CodeType, int]] = {}  # its own code, and how many traces have changed it


def converting_function(frame: FrameType | None, kind: Callable[..., Any]) -> FunctionType | None:
    """The function that a frame runs, if what it converts by `int`, `float` or `len` can be recorded."""
    if frame is None or frame.f_code.co_flags & inspect.CO_NESTED:
        return None
    code = frame.f_code
    if kind.__name__ not in _converted(code, frame.f_globals):
        return None
    return next((f for f in gc.get_referrers(code) if type(f) is FunctionType and f.__code__ is code), None)


@contextmanager
def recording_conversions(functions: frozenset[FunctionType]) -> Iterator[None]:
    """While this lasts, the trace records the conversions of sizes in these functions."""
    with _lock:
        for function in functions:
            own, uses = _uses.get(function, (function.__code__, 0))
            _uses[function] = own, uses + 1
            if not uses and (code := _renamed(own, function.__globals__)) is not None:
                function.__code__ = code
                function.__globals__.update(_FUNCTIONS)
    try:
        yield
    finally:
        with _lock:
            for function in functions:
                own, uses = _uses.pop(function)
                if uses > 1:
                    _uses[function] = own, uses - 1
                    continue
                function.__code__ = own
                for name in _FUNCTIONS:
                    function.__globals__.pop(name, None)


def _converted(code: CodeType, table: dict[str, Any]) -> set[str]:
    """The names of conversions that code calls and uses in no other way."""
    names = {kind.__name__ for kind in _KINDS} & set(code.co_names) - table.keys()
    if not names or sys.version_info < (3, 11):  # there, code does not tell what it loads to call it
        return set()
    steps = [step for step in dis.get_instructions(code) if step.argval in names]
    called = {step.argval for step in steps if _is_called(step)}  # renamed code has the names, and calls none of them
    return called - {step.argval for step in steps if not (step.opname in _OF_OBJECTS or _is_called(step))}


_OF_OBJECTS = ("LOAD_ATTR", "LOAD_METHOD")  # `y.float()`


def _is_called(step: dis.Instruction) -> bool:
    return step.opname == "LOAD_GLOBAL" and bool(step.arg and step.arg & 1)


def _renamed(code: CodeType, table: dict[str, Any]) -> CodeType | None:
    """Code with the conversions that it calls renamed; None where it uses them in another way."""
    names = sorted(_converted(code, table))
    at = {name: (len(code.co_names) + i) << 1 | 1 for i, name in enumerate(names)}
    steps = bytearray(code.co_code)
    for step in dis.get_instructions(code):
        if step.argval in at and _is_called(step):
            if max(at[step.argval], step.arg or 0) > 255:  # it would take two instructions
                return None
            steps[step.offset + 1] = at[step.argval]
    renamed = (*code.co_names, *(_PREFIX + name for name in names))
    return code.replace(co_names=renamed, co_code=bytes(steps)) if names else None


def _recorded(kind: Callable[..., Any]) -> Callable[..., Any]:
    def convert(*args: Any, **kwargs: Any) -> Any:
        x: Any = args[0] if len(args) == 1 and not kwargs else None
        if proxy.is_proxy(x) and issubclass(type(x), proxy.TensorProxy):
            return _of_tensor(kind, x)
        if kind is len or not (proxy.is_proxy(x) and issubclass(type(x), proxy.NumberProxy)):
            return kind(*args, **kwargs)
        if type(proxy.value_of(x)) is kind:
            return x
        return proxy.trace_of(x).record("call_function", getattr(builtins, kind.__name__), (x,), {})

    return convert


def gives_item(kind: Callable[..., Any], value: Any) -> bool:
    """True where converting a tensor gives the same as its `item()`."""
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex() or value.dtype is torch.bool:
        return False
    return kind is (float if value.is_floating_point() else int)


def _of_tensor(kind: Callable[..., Any], x: Any) -> Any:
    if kind is len and proxy.value_of(x).ndim:
        return proxy.trace_of(x).record("call_method", "size", (x, 0), {})
    try:
        return kind(x)
    except DataDependent:
        if not gives_item(kind, proxy.value_of(x)):
            raise
        return proxy.trace_of(x).record("call_method", "item", (x,), {})


_PREFIX = "_fxteleport_"
_FUNCTIONS = {_PREFIX + kind.__name__: _recorded(kind) for kind in _KINDS}
