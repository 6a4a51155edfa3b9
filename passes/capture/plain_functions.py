"""Plain functions whose calls a trace sees: those in which data decide a branch, so that they may be kept whole.

Python has no hook on calls of plain functions. So for the time of a trace the function's code object is replaced by one
that passes the call to the trace of its thread, or to the original code where there is no trace.
"""

from __future__ import annotations

import dis
import gc
import inspect
import itertools
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import Any, Protocol

from torch import Tensor, nn

from fxteleport.passes.capture.conversions import recording_conversions
from fxteleport.passes.capture.patching import under_their_names
from fxteleport.passes.capture.protocols import Trace
from fxteleport.passes.capture.proxy import is_proxy
from fxteleport.passes.capture.recording_mode import run_by, running
from fxteleport.passes.capture.type_questions import answering
from fxteleport.passes.graph.module_clone import is_clone
from fxteleport.passes.graph.source_location import OWN
from fxteleport.passes.graph.structure import is_settings, is_spelt

_UNFIT = inspect.CO_NESTED | inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_lock = threading.RLock()
_numbers = itertools.count()
_watched: dict[int, tuple[FunctionType, FunctionType]] = {}  # number -> the function, and a copy with its own code
_uses: dict[FunctionType, list[int]] = {}  # number, and how many traces watch it


class PlainFunction(nn.Module):
    """A function as a leaf.

    Args:
        settings: arguments that no graph can spell (objects of plain values), by position or name.
    """

    def __init__(self, function: Callable[..., Any], settings: dict[int | str, Any]) -> None:
        super().__init__()
        self._function, self._settings = function, settings

    def is_like(self, other: PlainFunction) -> bool:
        """True for the same function with the same settings."""
        alike = self._settings.keys() == other._settings.keys()
        return (
            alike
            and self._function is other._function
            and all(other._settings[k] is v for k, v in self._settings.items())
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = list(args)
        for place in sorted(key for key in self._settings if isinstance(key, int)):
            given.insert(place, self._settings[place])
        named = {key: x for key, x in self._settings.items() if isinstance(key, str)}
        return self._function(*given, **kwargs, **named)


class Code(Protocol):
    """Globals of code."""

    @property
    def asking(self) -> list[dict[str, Any]]:
        """Where it asks for types."""

    @property
    def imports(self) -> list[tuple[dict[str, Any], str]]:
        """Where it has functions of Python's and torch's, and under which names."""


@contextmanager
def watching(functions: frozenset[FunctionType]) -> Iterator[None]:
    """While this lasts, calls of these functions are passed to the trace of the calling thread."""
    with _lock:
        for function in functions:
            _watch(function)
    try:
        yield
    finally:
        with _lock:
            for function in functions:
                number, count = _uses[function]
                _uses[function][1] = count - 1
                if count == 1:
                    function.__code__ = _watched[number][1].__code__
                    del _uses[function]


@contextmanager
def run_watching(
    trace: Trace, functions: frozenset[FunctionType], converting: frozenset[FunctionType], code: Code
) -> Iterator[None]:
    """`run_by` for a trace that sees the calls of some functions, and the conversions of numbers in others.

    Args:
        code: what the modules' code has under which names.
    """
    with (
        answering(code.asking),
        under_their_names(code.imports),
        recording_conversions(converting),
        watching(functions),
        run_by(trace),
    ):
        yield


def _watch(function: FunctionType) -> None:
    if function in _uses:
        _uses[function][1] += 1
        return
    number, own = next(_numbers), types.FunctionType(function.__code__, function.__globals__, function.__name__)
    own.__defaults__, own.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    _watched[number], _uses[function] = (function, own), [number, 1]  # a call under way may still look it up
    space: dict[str, Any] = {}
    exec(
        f"def watched(*args, **kwargs):\n from {__name__} import called\n return called({number}, args, kwargs)", space
    )
    function.__code__ = space["watched"].__code__.replace(co_filename=__file__, co_name=function.__name__)


def called(number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A watched function is called."""
    function, own = _watched[number]
    trace = running.trace
    return own(*args, **kwargs) if trace is None else trace.plain_function(function, own, args, kwargs)


def deciding_functions(error: BaseException) -> list[FunctionType]:
    """The plain functions in an error's traceback, from the innermost up to the last call of a module."""
    found: list[FrameType] = []
    step: TracebackType | None = error.__traceback__
    while step is not None:
        found = [] if _is_of_module(step.tb_frame) else [*found, step.tb_frame]
        step = step.tb_next
    return [f for frame in reversed(found) if (f := _function_of(frame)) is not None]


def functions_of_data(frame: FrameType | None, is_data: Callable[[Any], bool]) -> Iterator[FunctionType]:
    """The running plain functions, up to a module's forward, whose arguments are data alone."""
    while frame is not None and not _is_of_module(frame):
        function = _function_of(frame)
        if function is not None and not gives_constants(function):
            given = [frame.f_locals.get(name) for name in _arguments(frame.f_code)]
            if can_be_held(given) and is_data(given):
                yield function
        frame = frame.f_back


def can_be_held(x: Any) -> bool:
    """True for arguments that a leaf can take: tensors and plain values, in containers, and configurations."""
    if is_proxy(x) or isinstance(x, Tensor):
        return True
    if type(x) in (tuple, list):
        return all(map(can_be_held, x))
    if type(x) is dict:
        return all(isinstance(k, str) and can_be_held(v) for k, v in x.items())
    return is_spelt(x) or is_settings(x)


def _is_of_module(frame: FrameType) -> bool:
    """True for a method of one of the model's modules, not of a module that a function creates."""
    names = _arguments(frame.f_code)
    owner = frame.f_locals.get(names[0]) if names else None
    return isinstance(owner, nn.Module) and is_clone(owner)


def _function_of(frame: FrameType) -> FunctionType | None:
    code = frame.f_code
    if code.co_filename.startswith(OWN) or code.co_flags & _UNFIT or code.co_name.startswith("<m"):
        return None
    held = gc.get_referrers(code)
    found = next((f for f in held if type(f) is FunctionType and f.__code__ is code and not f.__closure__), None)
    if found is not None and found.__module__.partition(".")[0] in sys.stdlib_module_names:
        return None  # a trace uses Python's own, too
    watched = (function for function, own in _watched.values() if own is found)
    return found if found is None else next(watched, found)


def _arguments(code: CodeType) -> Sequence[str]:
    count = code.co_argcount + code.co_kwonlyargcount
    return code.co_varnames[
        : count + bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    ]


def gives_constants(function: FunctionType) -> bool:
    """True where a function returns a plain value somewhere, which decides what its caller does."""
    own = next((own for watched, own in _watched.values() if watched is function), function)
    steps = [step for step in dis.get_instructions(own.__code__) if step.opname != "CACHE"]
    ends = {step.offset for step in steps if step.opname == "RETURN_VALUE"}
    for step, after in itertools.pairwise(steps):
        ends_here = after.opname == "RETURN_VALUE" or ("JUMP_FORWARD" in after.opname and after.argval in ends)
        if step.opname == "RETURN_CONST" or (step.opname == "LOAD_CONST" and ends_here):
            return True
    return steps[-1].opname == "RETURN_CONST"
