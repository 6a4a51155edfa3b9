"""Calls that stay one node when `torch.fx` traces an emitted network (for quantisation, for features)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch import fx

Result = TypeVar("Result")


def one_call(fn: Callable[..., Result]) -> Callable[..., Result]:
    """Have `torch.fx` record a function as one call: its code asks what a proxy cannot answer."""

    @functools.wraps(fn)
    def wrapper(value: Any, *settings: Any) -> Any:
        if isinstance(value, fx.Proxy):
            return value.tracer.create_proxy("call_function", wrapper, (value, *settings), {})
        return fn(value, *settings)

    return wrapper
