"""Conversions: `int(n / 2)` and `float(n)` of a size stay functions of it, though Python makes numbers there.

A class cannot tell `int` to give anything but an int. So a function that converts a size is traced again, with other
names for `int` and `float` in its code, for the time of that trace: what bears them records the call.
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

from fxteleport.passes.capture import proxy

_KINDS: tuple[type, ...] = (int, float)
_lock = threading.RLock()
_uses: dict[FunctionType, tuple[CodeType, int]] = {}  # its own code, and how many traces it has another for


def converting_function(frame: FrameType | None) -> FunctionType | None:
    """The function that a frame runs, if what it converts can be recorded."""
    if frame is None or frame.f_code.co_flags & inspect.CO_NESTED or _renamed(frame.f_code, frame.f_globals) is None:
        return None
    code = frame.f_code
    return next((f for f in gc.get_referrers(code) if type(f) is FunctionType and f.__code__ is code), None)


@contextmanager
def recording_conversions(functions: frozenset[FunctionType]) -> Iterator[None]:
    """While this lasts, these functions have numbers that are none of Python's own converted by the trace."""
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


def _renamed(code: CodeType, table: dict[str, Any]) -> CodeType | None:
    """Code with other names for the conversions that it calls; None where it does anything else with these."""
    names = {kind.__name__ for kind in _KINDS} & set(code.co_names) - table.keys()
    if not names or sys.version_info < (3, 11):  # there, code does not tell what it loads to call it
        return None
    for step in dis.get_instructions(code):
        if step.argval in names and (step.opname != "LOAD_GLOBAL" or not step.arg or not step.arg & 1):
            names.discard(step.argval)
    renamed = tuple(_PREFIX + name if name in names else name for name in code.co_names)
    return code.replace(co_names=renamed) if names else None


def _recorded(kind: type) -> Callable[..., Any]:
    def convert(*args: Any, **kwargs: Any) -> Any:
        x: Any = args[0] if len(args) == 1 and not kwargs else None
        if not (proxy.is_proxy(x) and issubclass(type(x), proxy.NumberProxy)):
            return kind(*args, **kwargs)
        if type(proxy.value_of(x)) is kind:
            return x
        return proxy.trace_of(x).record("call_function", getattr(builtins, kind.__name__), (x,), {})

    return convert


_PREFIX = "_fxteleport_"
_FUNCTIONS = {_PREFIX + kind.__name__: _recorded(kind) for kind in _KINDS}
