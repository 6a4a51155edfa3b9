"""The functions that replace Python's and torch's own while a capture runs; each maker takes the original."""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.recording_mode import running
from fxteleport.passes.graph.source_location import OWN


def isinstance_of_values(plain: Any) -> Any:
    """`isinstance` for the value behind a proxy."""

    def isinstance(x: Any, kind: Any, /) -> bool:
        if type(x) not in _PROXIES:
            return plain(x, kind)  # type: ignore[no-any-return]
        if type(x) in _NUMBER_KINDS:  # False for SymInt and SymFloat, though the proxies' classes are
            return issubclass(type(proxy.value_of(x)), kind) or issubclass(proxy.NumberProxy, kind)
        if type(x) is proxy.TensorProxy:
            proxy.trace_of(x).inputs.kind = True
        value = nn.Parameter if proxy.trace_of(x).tensors.is_parameter(x) else type(proxy.value_of(x))
        return plain(x, kind) or issubclass(value, kind) or _is_of_old_type(x, kind)

    return isinstance


def _is_of_old_type(x: Any, kind: Any) -> bool:
    """True for a tensor of a class that is none, `torch.FloatTensor`: it says where tensors are, and of which type."""
    if type(kind) is tuple:
        return any(_is_of_old_type(x, one) for one in kind)
    if type(kind) is not type(torch.FloatTensor) or type(x) is not proxy.TensorProxy:
        return False
    return bool(x.dtype == kind.dtype) and kind.is_cuda == x.is_cuda and not kind.is_sparse


PLAIN_ISINSTANCE = builtins.isinstance
_NUMBER_KINDS = frozenset({proxy.IntProxy, proxy.FloatProxy, proxy.SettledProxy})
_PROXIES = _NUMBER_KINDS | {proxy.TensorProxy, proxy.SequenceProxy, proxy.DictProxy, proxy.ObjectProxy}


@functools.cache
def recording(fn: Any) -> Any:
    """A function of numbers that is recorded where one of them is a proxy."""

    @functools.wraps(fn)
    def wrapper(*args: Any) -> Any:
        for x in args:
            if proxy.is_proxy(x) and issubclass(type(x), proxy.NumberProxy):
                return proxy.trace_of(x).record("call_function", fn, args, {})
        return fn(*args)

    return wrapper


@functools.cache
def seeding(fn: Any) -> Any:
    """A seed that forward sets, or a place in the random numbers, as no graph does: what does so is kept whole.

    torch's own code may note where the numbers are: a checkpoint does, for its backward.
    """

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if running.trace is not None and not sys._getframe(1).f_code.co_filename.startswith(OWN):
            raise RuntimeError("its forward seeds the random numbers")
        return fn(*args, **kwargs)

    return wrapper


@functools.cache
def of_types(fn: Any) -> Any:
    """`torch.finfo` of a proxy's dtype: recorded, so that the facts are those of the run's."""

    @functools.wraps(fn, updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        for x in (*args, *kwargs.values()):
            if proxy.is_proxy(x):
                return proxy.trace_of(x).record("call_function", fn, args, kwargs)
        return fn(*map(proxy.plain, args), **kwargs)

    return wrapper


def entering(enter: Any) -> Any:
    """A gradient context's `__enter__` that reports to the trace whether gradients are recorded in it."""

    @functools.wraps(enter)
    def wrapper(context: Any) -> None:
        trace = running.trace
        if trace is None:
            enter(context)
        elif isinstance(context, torch.inference_mode):  # its tensors could not be traced
            trace.enter_gradients(False if context.mode else None)
        else:
            enter(context)
            trace.enter_gradients(isinstance(context, torch.enable_grad))

    return wrapper


def asking(plain: Any) -> Any:
    """`torch.is_grad_enabled` that gives the model's own code the trace's answer."""

    @functools.wraps(plain)
    def is_grad_enabled() -> bool:
        trace, frame = running.trace, sys._getframe(1)
        if trace is None or frame.f_globals.get("__name__", "").startswith("torch."):
            return plain()  # type: ignore[no-any-return]
        return trace.is_grad_enabled(frame)

    return is_grad_enabled


def leaving(leave: Any) -> Any:
    """A gradient context's `__exit__` that reports to the trace."""

    @functools.wraps(leave)
    def wrapper(context: Any, *error: Any) -> None:
        trace = running.trace
        if trace is not None:
            trace.leave_gradients()
        if trace is None or not isinstance(context, torch.inference_mode):
            leave(context, *error)

    return wrapper


def calling(call: Any) -> Any:
    """`Module.__call__` that calls the shadow of a user's module, to which an object may refer."""

    @functools.wraps(call)
    def wrapper(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        trace = running.trace
        shadow = None if trace is None else trace.shadow_of(module)
        return call(module, *args, **kwargs) if shadow is None else shadow(*args, **kwargs)

    return wrapper


def scripted(call: Any) -> Any:
    """A scripted function's call that, given proxies, calls the Python function that was scripted."""

    def wrapper(function: Any, *args: Any, **kwargs: Any) -> Any:
        source = getattr(function, "_torchdynamo_inline", None)
        if source is None or _is_traced(function) or running.trace is None or proxy.find_trace((args, kwargs)) is None:
            return call(function, *args, **kwargs)
        return source(*args, **kwargs)

    return wrapper


def _is_traced(function: Any) -> bool:
    """True for a function from `torch.jit.trace`, which may differ from its source on other inputs."""
    kinds = (x.type() for x in function.graph.inputs())
    return any(kind.kind() == "TensorType" and kind.sizes() is not None for kind in kinds)


def applying(apply: Any) -> Any:
    """`Function.apply` that the trace may record as one call."""

    def wrapper(cls: Any, *args: Any, **kwargs: Any) -> Any:
        trace = running.trace
        plain = functools.partial(apply.__get__(None, cls), *args, **kwargs)
        return plain() if trace is None else trace.apply(cls, None if kwargs else args, plain)

    return classmethod(wrapper)


def users(cls: type) -> Iterator[type[torch.autograd.Function]]:
    """The subclasses of a class of autograd functions that are not torch's and define a forward."""
    function: Any
    for function in type.__subclasses__(cls):
        if not function.__module__.startswith("torch.") and isinstance(vars(function).get("forward"), staticmethod):
            yield function
        yield from users(function)


def forwarding(function: type[torch.autograd.Function], forward: Any) -> Any:
    """An autograd function's forward, for an `apply` that was looked up before the capture: `f = F.apply`."""

    @functools.wraps(forward)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        trace = running.trace
        if trace is None or trace.in_function or kwargs:
            return forward(*args, **kwargs)
        alone = function.setup_context is torch.autograd.Function.setup_context  # it takes the context, too
        given = args[1:] if alone else args
        return trace.apply(function, given, functools.partial(forward, *args))

    return wrapper


def passing_on(unwrap: Any) -> Any:
    """functorch's `unwrap_dead_wrappers`, which returns a trace's arguments unchanged."""

    def wrapper(args: tuple[Any, ...]) -> tuple[Any, ...]:
        return unwrap(args) if running.trace is None else args  # type: ignore[no-any-return]

    return wrapper
