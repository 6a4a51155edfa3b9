"""Retraced: an emitted network may be traced again by `torch.fx` (for quantisation, for features)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch import fx

Result = TypeVar("Result")


def one_call(fn: Callable[..., Result]) -> Callable[..., Result]:
    """A function that `torch.fx` records as one call, since it asks for what a proxy of torch's does not know."""

    @functools.wraps(fn)
    def wrapper(*args: Any) -> Any:
        for x in args:
            if isinstance(x, fx.Proxy):
                return x.tracer.create_proxy("call_function", wrapper, args, {})
        return fn(*args)

    return wrapper
