"""`type(x)` during a trace: the class of the value behind a proxy, as `isinstance` answers (`type(n) is int`).

Python gives an object no hook on `type`. So for the time of a trace, the globals of code that names `type` have another
`type`, which looks behind proxies and shadows, and behaves as Python's own for all else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from fxteleport.passes.capture import proxy

_lock = threading.RLock()
_uses: dict[int, int] = {}  # id of a table of globals -> the number of traces that have replaced its `type`


class _Asking(type):
    """The metaclass of the replacement for `type`: calling that with one argument gives a class."""

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
    """The replacement for `type`."""


def class_behind(x: Any) -> Any:
    """The class of the value behind an object."""
    kind = type(x)
    if proxy.is_proxy(x):
        is_parameter = issubclass(kind, proxy.TensorProxy) and proxy.trace_of(x).tensors.is_parameter(x)
        return nn.Parameter if is_parameter else type(proxy.value_of(x))
    return getattr(kind, "_shadowed", kind)


@contextmanager
def answering(tables: Iterable[dict[str, Any]]) -> Iterator[None]:
    """While this lasts, code with these globals has the replacement for `type`."""
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
