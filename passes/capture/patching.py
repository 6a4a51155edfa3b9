"""Patches of Python's and torch's functions while a capture runs, so that they work on proxies.

`isinstance(x, torch.Tensor)` answers for the value behind a proxy. This is patched for Python code only: torch's C code
would go on to read a tensor's memory. Calls of torch's functions are recorded by `recording_mode.py`.
"""

from __future__ import annotations

import builtins
import functools
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch._functorch import utils as functorch

from fxteleport.passes.capture import patches

P = ParamSpec("P")
T = TypeVar("T")

_NUMBERS = "sqrt isqrt log log2 log10 log1p exp pow gcd".split()  # of `math`: what code makes of sizes
_SEEDING = (
    "manual_seed manual_seed_all seed seed_all get_rng_state set_rng_state get_rng_state_all set_rng_state_all fork_rng"
).split()
_lock = threading.RLock()
_depth = 0
_saved: list[tuple[Any, str, Any]] = []
_renamed: dict[tuple[int, str], list[Any]] = {}  # globals, name -> what is there otherwise, and for how many traces


@contextmanager
def aware_of_proxies() -> Iterator[None]:
    """Patch for the time of a capture; nested and concurrent captures share the patches."""
    global _depth
    with _lock:
        _depth += 1
        if _depth == 1:
            _known_to_compile()
            _patch(builtins, "isinstance", patches.isinstance_of_values(builtins.isinstance))
            for name in _NUMBERS:
                _patch(math, name, patches.recording(getattr(math, name)))
            for name in ("finfo", "iinfo"):
                _patch(torch, name, patches.of_types(getattr(torch, name)))
            for name in _SEEDING:
                for space in (torch, torch.random, torch.cuda, torch.cuda.random):
                    if name in vars(space):
                        _patch(space, name, patches.seeding(vars(space)[name]))
            _patch(nn.Module, "__call__", patches.calling(vars(nn.Module)["__call__"]))
            _patch(torch.jit.ScriptFunction, "__call__", patches.scripted(vars(torch.jit.ScriptFunction)["__call__"]))
            _patch(torch.autograd.Function, "apply", patches.applying(vars(torch.autograd.Function)["apply"]))
            for function in patches.users(torch.autograd.Function):
                _patch(function, "forward", staticmethod(patches.forwarding(function, function.forward)))
            if hasattr(functorch, "unwrap_dead_wrappers"):  # of older torch: its C code takes no proxies
                _patch(functorch, "unwrap_dead_wrappers", patches.passing_on(functorch.unwrap_dead_wrappers))
            _patch(torch, "is_grad_enabled", patches.asking(torch.is_grad_enabled))
            for context in (torch.no_grad, torch.enable_grad, torch.inference_mode):
                _patch(context, "__enter__", patches.entering(context.__enter__))
                _patch(context, "__exit__", patches.leaving(context.__exit__))
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                while _saved:
                    setattr(*_saved.pop())


@contextmanager
def under_their_names(imports: Iterable[tuple[dict[str, Any], str]]) -> Iterator[None]:
    """While this lasts, code that has imported a patched function, `from torch import manual_seed`, has the patch."""
    with _lock:
        patches = {id(plain): vars(space)[name] for space, name, plain in _saved if callable(plain)}
        own = [(table, name) for table, name in imports if id(table.get(name)) in patches]
        own += [(table, name) for table, name in imports if (id(table), name) in _renamed]
        for table, name in own:
            held = _renamed.setdefault((id(table), name), [table.get(name), 0])
            held[1] += 1
            table[name] = patches.get(id(held[0]), held[0])
    try:
        yield
    finally:
        with _lock:
            for table, name in own:
                held = _renamed[id(table), name]
                held[1] -= 1
                if not held[1]:
                    table[name] = held[0]
                    del _renamed[id(table), name]


@functools.cache
def _known_to_compile() -> None:
    """Have `torch.compile` load its table of functions before they are patched.

    Otherwise it would load it during a capture (operations on meta tensors import it), and have the patches in it.
    """
    from torch._dynamo import trace_rules

    for function in (isinstance, math.sqrt, torch.manual_seed, torch.finfo, nn.Module.__call__):
        trace_rules.lookup(function)


@contextmanager
def unaware() -> Iterator[None]:
    """While this lasts, the patches are removed, unless another capture runs: `torch.compile` fails with them."""
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


def among_plain_values(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A call without proxies, with Python's own `isinstance` restored, unless another capture needs the patch.

    torch's Python functions call it a thousand times for one result on the meta device.
    """
    with _lock:
        if _depth == 1:
            patched, builtins.isinstance = builtins.isinstance, patches.PLAIN_ISINSTANCE  # type: ignore[assignment]
            try:
                return call(*args, **kwargs)
            finally:
                builtins.isinstance = patched  # type: ignore[assignment]
    return call(*args, **kwargs)
