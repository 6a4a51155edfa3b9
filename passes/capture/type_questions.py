"""Questions for a type: `type(n) is int` of a size gets the class of what a proxy stands for, as `isinstance` does.

Python tells no object that its type is asked for. So for the time of a trace, the globals of code that names `type`
have another one, which looks behind proxies and shadows, and is Python's own for all else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from fxteleport.passes.capture import proxy

_lock = threading.RLock()
_uses: dict[int, int] = {}  # how many traces have put it there, by the id of the table


class _Asking(type):
    """The class of what stands for `type`: calling that with one argument asks."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 or kwargs:
            return type(*args, **kwargs)
        found = class_behind(args[0])
        return Type if found is type else found

    def __instancecheck__(cls, x: Any) -> bool:
        return isinstance(x, type)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, type)


class Type(type, metaclass=_Asking):
    """What code has for `type`."""


def class_behind(x: Any) -> Any:
    """The class of what an object stands for."""
    kind = type(x)
    if proxy.is_proxy(x):
        is_parameter = issubclass(kind, proxy.TensorProxy) and proxy.trace_of(x).tensors.is_parameter(x)
        return nn.Parameter if is_parameter else type(proxy.value_of(x))
    return getattr(kind, "_shadowed", kind)


@contextmanager
def answering(tables: Iterable[dict[str, Any]]) -> Iterator[None]:
    """While this lasts, code with these globals has the other `type`."""
    own = [table for table in tables if table.get("type", Type) is Type]
    with _lock:
        for table in own:
            table["type"] = Type
            _uses[id(table)] = _uses.get(id(table), 0) + 1
    try:
        yield
    finally:
        with _lock:
            for table in own:
                _uses[id(table)] -= 1
                if not _uses[id(table)]:
                    del _uses[id(table)], table["type"]
