"""The mode in which torch's functions are recorded, and the trace for which a thread runs a model.

torch's functions and methods look for `__torch_function__` among their tensors only. A mode sees each call, and records
it if an argument is a proxy, if it draws random numbers, or if it creates a tensor and the trace records all creations.
Any other call, those of other threads among them, passes through.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.protocols import Trace

P = ParamSpec("P")
T = TypeVar("T")
_CREATION = (
    "arange as_tensor asarray empty empty_strided eye full linspace logspace ones rand randint randn randperm"
    " scalar_tensor tensor tril_indices triu_indices zeros hann_window hamming_window complex polar sparse_coo_tensor"
    " sparse_csr_tensor sparse_csc_tensor empty_like full_like ones_like zeros_like rand_like randn_like clone"
).split()
_COPYING = "clone new_empty new_full new_ones new_tensor new_zeros".split()
MAKING = frozenset({*(getattr(torch, name) for name in _CREATION), *_COPYING})  # as nodes name them
_MAKING = MAKING | {getattr(torch.Tensor, name) for name in _COPYING}
# Methods that do not depend on a tensor's values.
_OF_THE_OBJECT = frozenset({torch.Tensor.__hash__, torch.Tensor.__repr__, torch.Tensor.__format__})


class _Running(threading.local):
    """The trace for which this thread runs a model; None while it evaluates a call, or traces nothing.

    Patched functions are global, and their arguments need not refer to a trace (`torch.rand(3)`,
    `torch.is_grad_enabled()`), so it is looked up by thread.
    """

    trace: Trace | None = None


running = _Running()


@contextmanager
def run_by(trace: Trace) -> Iterator[None]:
    """While this lasts, calls of torch's functions in this thread go to this trace."""
    before, running.trace = running.trace, trace
    try:
        with _RECORDING:
            yield
    finally:
        running.trace = before


def unrecorded(method: Callable[P, T]) -> Callable[P, T]:
    """A method of a recorder that calls torch itself: these calls are not recorded."""

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
    """The mode that records torch's functions (see the module's docstring)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        trace = running.trace
        if trace is not None:
            found = proxy.find_trace((args, kwargs))
            if found is None:
                if func is torch._assert and args and type(args[0]) is bool:
                    return func(*args, **kwargs)
                if func.__name__ == "__get__" and not isinstance(fact := func(*args), torch.Tensor):
                    return fact  # a property that does not depend on a tensor's values
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
