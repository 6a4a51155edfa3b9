"""`__torch_function__` of proxies, and the calls that it records."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxteleport.passes.capture.protocols import Trace
from fxteleport.passes.capture.proxy.access import find_trace, plain
from fxteleport.passes.graph.ops import setitem


class Overriding:
    """Mixed into a proxy: torch's functions call `__torch_function__`, whichever argument it is."""

    __slots__ = ()

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        trace = find_trace((args, kwargs))
        return past(func, args, kwargs) if trace is None else overridden(trace, func, args, kwargs)


def overridden(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record a function of torch's, as `__torch_function__` names it."""
    if not _is_method_or_property(func):
        return trace.call_function(func, args, kwargs)
    name = func.__name__
    if name == "__get__":  # a property such as Tensor.T
        return trace.record("call_function", getattr, (args[0], func.__self__.__name__), {})
    if name in _OPERATORS:
        return trace.record("call_function", _OPERATORS[name], args, kwargs)
    return trace.record("call_method", name, args, kwargs)


def of_own(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record a call on a tensor of the model that code refers to directly, as a call on its proxy."""
    name = func.__name__
    if name in ("__get__", "__set__"):
        of = func.__self__.__name__
        return getattr(args[0], of) if name == "__get__" else setattr(args[0], of, args[1])
    if name.startswith("__") and hasattr(type(args[0]), name):
        return getattr(args[0], name)(*args[1:], **kwargs)
    return overridden(trace, func, args, kwargs)


def past(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a call on proxies whose trace has ended: sizes are plain numbers.

    Raises:
        RuntimeError: one of them stands for a tensor, which has no values.
    """
    args, kwargs = plain(args), plain(kwargs)
    if any(isinstance(x, Tensor) and x.is_meta for x in pytree.tree_leaves((args, kwargs))):
        raise RuntimeError("a tensor is left over from planning this model: its forward keeps tensors in a global")
    return fn(*args, **kwargs)


# torch's own sets Python's filters of warnings at each call, which takes longer than to record it.
_is_method_or_property = functools.lru_cache(maxsize=4096)(torch.overrides.is_tensor_method_or_property)
_OPERATORS = {"__getitem__": operator.getitem, "__setitem__": setitem}  # those that no method of torch's names
