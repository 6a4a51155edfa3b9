"""What Python and torch must be told about proxies while a capture runs.

`isinstance(x, torch.Tensor)` answers for the value behind a proxy: for Python code only, since torch's C code would
take such an answer for leave to read a tensor's memory. torch's functions and methods look for `__torch_function__`
among their tensors only: a mode (`Recording`) sees each call, and records it when any argument is a proxy, when it
draws random numbers, and when it makes a tensor and the trace records all that are made. Everything else, other
threads' calls included, passes through.
"""

from __future__ import annotations

import builtins
import functools
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch._functorch import utils as functorch
from torch.overrides import TorchFunctionMode

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.protocols import Trace

P = ParamSpec("P")
T = TypeVar("T")

_NUMBERS = "sqrt isqrt log log2 log10 log1p exp pow gcd".split()  # of `math`: what code makes of sizes
_CREATION = (
    "arange as_tensor asarray empty empty_strided eye full linspace logspace ones rand randint randn randperm"
    " scalar_tensor tensor tril_indices triu_indices zeros hann_window hamming_window complex polar sparse_coo_tensor"
    " sparse_csr_tensor sparse_csc_tensor empty_like full_like ones_like zeros_like rand_like randn_like clone"
).split()
_COPYING = "clone new_empty new_full new_ones new_tensor new_zeros".split()
MAKING = frozenset({*(getattr(torch, name) for name in _CREATION), *_COPYING})  # as nodes name them
_MAKING = MAKING | {getattr(torch.Tensor, name) for name in _COPYING}
# What Python asks of a tensor as an object, whatever it holds.
_OF_THE_OBJECT = frozenset({torch.Tensor.__hash__, torch.Tensor.__repr__, torch.Tensor.__format__})
_lock = threading.RLock()
_depth = 0
_saved: list[tuple[Any, str, Any]] = []


@contextmanager
def aware_of_proxies() -> Iterator[None]:
    """Patch for the time of a capture; nested and concurrent captures share the patches."""
    global _depth
    with _lock:
        _depth += 1
        if _depth == 1:
            _known_to_compile()
            _patch(builtins, "isinstance", _isinstance(builtins.isinstance))
            for name in _NUMBERS:
                _patch(math, name, _recording(getattr(math, name)))
            for name in ("finfo", "iinfo"):
                _patch(torch, name, _known(getattr(torch, name)))
            _patch(torch, "manual_seed", _seeding(torch.manual_seed))
            _patch(nn.Module, "__call__", _calling(vars(nn.Module)["__call__"]))
            _patch(torch.jit.ScriptFunction, "__call__", _scripted(vars(torch.jit.ScriptFunction)["__call__"]))
            _patch(torch.autograd.Function, "apply", _applying(vars(torch.autograd.Function)["apply"]))
            for function in _users(torch.autograd.Function):
                _patch(function, "forward", staticmethod(_forwarding(function, function.forward)))
            if hasattr(functorch, "unwrap_dead_wrappers"):  # of older torch: its C code takes no proxies
                _patch(functorch, "unwrap_dead_wrappers", _passing_on(functorch.unwrap_dead_wrappers))
            _patch(torch, "is_grad_enabled", _asking(torch.is_grad_enabled))
            for context in (torch.no_grad, torch.enable_grad, torch.inference_mode):
                _patch(context, "__enter__", _entering(context.__enter__))
                _patch(context, "__exit__", _leaving(context.__exit__))
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                while _saved:
                    setattr(*_saved.pop())


@functools.cache
def _known_to_compile() -> None:
    """Have `torch.compile` note the functions that are patched, as it does when it is first used, before they are.

    Otherwise it would note the patches (operations on meta tensors load it), and not know the functions afterwards.
    """
    from torch._dynamo import trace_rules

    for function in (isinstance, math.sqrt, torch.manual_seed, torch.finfo, nn.Module.__call__):
        trace_rules.lookup(function)


@contextmanager
def unaware() -> Iterator[None]:
    """The patches lifted for a while, where no other capture runs: `torch.compile` does not bear them."""
    with _lock:
        lifted = [(space, name, vars(space)[name]) for space, name, _ in _saved] if _depth == 1 else []
        for space, name, plain in _saved if lifted else ():
            setattr(space, name, plain)
        try:
            yield
        finally:
            for space, name, patched in lifted:
                setattr(space, name, patched)


def _patch(space: Any, name: str, new: Any) -> None:
    _saved.append((space, name, vars(space)[name]))
    setattr(space, name, new)


def _isinstance(plain: Any) -> Any:
    """`isinstance` that sees the value behind a proxy."""

    def isinstance(x: Any, kind: Any, /) -> bool:
        if type(x) not in _PROXIES:
            return plain(x, kind)  # type: ignore[no-any-return]
        if type(x) in _NUMBER_KINDS:  # no symbolic number to who asks for one
            return issubclass(type(proxy.value_of(x)), kind) or issubclass(proxy.NumberProxy, kind)
        value = nn.Parameter if proxy.trace_of(x).tensors.is_parameter(x) else type(proxy.value_of(x))
        return plain(x, kind) or issubclass(value, kind)

    return isinstance


def among_plain_values(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A call that no proxy reaches, with Python's own `isinstance`, where no other capture needs this one.

    For the form of one result, torch's Python functions ask it a thousand times.
    """
    with _lock:
        if _depth == 1:
            patched, builtins.isinstance = builtins.isinstance, _plain_isinstance  # type: ignore[assignment]
            try:
                return call(*args, **kwargs)
            finally:
                builtins.isinstance = patched  # type: ignore[assignment]
    return call(*args, **kwargs)


_plain_isinstance = builtins.isinstance
_NUMBER_KINDS = frozenset({proxy.IntProxy, proxy.FloatProxy, proxy.SettledProxy})
_PROXIES = _NUMBER_KINDS | {proxy.TensorProxy, proxy.SequenceProxy, proxy.DictProxy, proxy.ObjectProxy}


class _Running(threading.local):
    """The trace for which this thread runs a model; None while it evaluates a call, or traces nothing.

    Patched functions are global, and what they are given need not lead to a trace (`torch.rand(3)`,
    `torch.is_grad_enabled()`): only the thread tells.
    """

    trace: Trace | None = None


running = _Running()


@contextmanager
def run_by(trace: Trace) -> Iterator[None]:
    """torch's functions in this thread ask this trace whether to record them."""
    before, running.trace = running.trace, trace
    try:
        with _RECORDING:
            yield
    finally:
        running.trace = before


def unrecorded(method: Callable[P, T]) -> Callable[P, T]:
    """A method of a recorder's that uses torch for its own ends."""

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        trace = running.trace
        if trace is None:
            return method(*args, **kwargs)
        running.trace = None
        modes = _count_modes()  # none while a call that the mode was handed is recorded
        lifted = modes > 0 and _get_mode(modes - 1) is _RECORDING  # not under a mode that forward has entered
        if lifted:
            _pop_mode()
        try:
            return method(*args, **kwargs)
        finally:
            running.trace = trace
            if lifted:
                _push_mode(_RECORDING)

    return wrapper


# Called twice a node: `torch.overrides` has the same, with checks that take a microsecond.
_count_modes, _get_mode = torch._C._len_torch_function_stack, torch._C._get_function_stack_at
_pop_mode, _push_mode = torch._C._pop_torch_function_stack, torch._C._push_on_torch_function_stack


class Recording(TorchFunctionMode):
    """Records torch's functions where an argument is a proxy, or where each run draws its own numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        trace = running.trace
        if trace is not None:
            found = proxy.find_trace((args, kwargs))
            if found is None:
                if func.__name__ == "__get__" and not isinstance(fact := func(*args), torch.Tensor):
                    return fact  # a property that says nothing of a tensor's values
                if func not in _OF_THE_OBJECT:
                    adopted = trace.tensors.adopted(args), trace.tensors.adopted(kwargs)
                    if proxy.find_trace(adopted) is not None:
                        return proxy.of_own(trace, func, *adopted)
            else:
                return proxy.overridden(found, func, args, kwargs)
            if trace.makes_all and func in _MAKING:
                return proxy.overridden(trace, func, args, kwargs)
            if func.__name__ == "__get__":  # a property
                return func(*args)
            if func is torch._assert:
                return func(*args, **kwargs)
            state = torch.get_rng_state()
            out = func(*args, **kwargs)
            if torch.equal(state, torch.get_rng_state()):
                return out
            torch.set_rng_state(state)
            return proxy.overridden(trace, func, args, kwargs)
        return func(*args, **kwargs)


_RECORDING = Recording()


def _recording(fn: Any) -> Any:
    """A function of numbers, recorded where one of them is a proxy."""

    @functools.wraps(fn)
    def wrapper(*args: Any) -> Any:
        for x in args:
            if proxy.is_proxy(x) and issubclass(type(x), proxy.NumberProxy):
                return proxy.trace_of(x).record("call_function", fn, args, {})
        return fn(*args)

    return wrapper


def _seeding(fn: Any) -> Any:
    """A seed that forward sets, as no graph does: what does so is kept whole."""

    @functools.wraps(fn)
    def wrapper(seed: Any) -> Any:
        if running.trace is not None:
            raise RuntimeError("its forward seeds the random numbers")
        return fn(seed)

    return wrapper


def _known(fn: Any) -> Any:
    """`torch.finfo` of a proxy's dtype: the facts of the dtype at hand."""

    @functools.wraps(fn, updated=())
    def wrapper(*args: Any) -> Any:
        for x in args:
            if proxy.is_proxy(x):
                proxy.trace_of(x).values.known(x)
        return fn(*map(proxy.plain, args))

    return wrapper


def _entering(enter: Any) -> Any:
    """A context's beginning that tells the trace whether gradients are recorded in it."""

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


def _asking(plain: Any) -> Any:
    """Whether gradients are recorded: a model's own code is told what the trace takes for it."""

    @functools.wraps(plain)
    def is_grad_enabled() -> bool:
        trace, frame = running.trace, sys._getframe(1)
        if trace is None or frame.f_globals.get("__name__", "").startswith("torch."):
            return plain()  # type: ignore[no-any-return]
        return trace.is_grad_enabled(frame)

    return is_grad_enabled


def _leaving(leave: Any) -> Any:
    @functools.wraps(leave)
    def wrapper(context: Any, *error: Any) -> None:
        trace = running.trace
        if trace is not None:
            trace.leave_gradients()
        if trace is None or not isinstance(context, torch.inference_mode):
            leave(context, *error)

    return wrapper


def _calling(call: Any) -> Any:
    """A call of one of the user's own modules, which an object or a weak reference holds, is one of its shadow."""

    @functools.wraps(call)
    def wrapper(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        trace = running.trace
        shadow = None if trace is None else trace.shadow_of(module)
        return call(module, *args, **kwargs) if shadow is None else shadow(*args, **kwargs)

    return wrapper


def _scripted(call: Any) -> Any:
    """A call of a scripted function with proxies is one of the Python function that it was made of."""

    def wrapper(function: Any, *args: Any, **kwargs: Any) -> Any:
        source = getattr(function, "_torchdynamo_inline", None)
        if source is None or _is_traced(function) or running.trace is None or proxy.find_trace((args, kwargs)) is None:
            return call(function, *args, **kwargs)
        return source(*args, **kwargs)

    return wrapper


def _is_traced(function: Any) -> bool:
    """True for a function that `torch.jit.trace` made, which need not do what its source does on other inputs."""
    kinds = (x.type() for x in function.graph.inputs())
    return any(kind.kind() == "TensorType" and kind.sizes() is not None for kind in kinds)


def _applying(apply: Any) -> Any:
    """`Function.apply`, a call of which the trace may keep whole."""

    def wrapper(cls: Any, *args: Any, **kwargs: Any) -> Any:
        trace = running.trace
        plain = functools.partial(apply.__get__(None, cls), *args, **kwargs)
        return plain() if trace is None else trace.apply(cls, None if kwargs else args, plain)

    return classmethod(wrapper)


def _users(cls: type) -> Iterator[type[torch.autograd.Function]]:
    """The autograd functions that are not torch's own, with a forward of their own."""
    function: Any
    for function in type.__subclasses__(cls):
        if not function.__module__.startswith("torch.") and isinstance(vars(function).get("forward"), staticmethod):
            yield function
        yield from _users(function)


def _forwarding(function: type[torch.autograd.Function], forward: Any) -> Any:
    """The forward of an autograd function whose `apply` may have been looked up before the capture: `f = F.apply`."""

    @functools.wraps(forward)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        trace = running.trace
        if trace is None or trace.in_function or kwargs:
            return forward(*args, **kwargs)
        alone = function.setup_context is torch.autograd.Function.setup_context  # it takes the context, too
        given = args[1:] if alone else args
        return trace.apply(function, given, functools.partial(forward, *args))

    return wrapper


def _passing_on(unwrap: Any) -> Any:
    """What looks for the wrappers of transforms that are over among a function's arguments: a trace has none."""

    def wrapper(args: tuple[Any, ...]) -> tuple[Any, ...]:
        return unwrap(args) if running.trace is None else args  # type: ignore[no-any-return]

    return wrapper
