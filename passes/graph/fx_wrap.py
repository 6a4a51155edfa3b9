"""Retraced: an emitted network may be traced again by `torch.fx` (for quantisation, for features)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch import fx

Result = TypeVar("Result")


def one_call(fn: Callable[..., Result]) -> Callable[..., Result]:
    """A function of a value of the network that `torch.fx` records as one call: it asks what a proxy does not know."""

    @functools.wraps(fn)
    def wrapper(value: Any, *settings: Any) -> Any:
        if isinstance(value, fx.Proxy):
            return value.tracer.create_proxy("call_function", wrapper, (value, *settings), {})
        return fn(value, *settings)

    return wrapper
