"""Exceptions by which a trace changes its course. None of them reaches the user."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from types import FunctionType
from typing import Any


class CannotRun(Exception):
    """An operation fails on real data too: the model does not run on these inputs, or its code catches the error."""

    __str__ = Exception.__str__  # whatever class `cannot_run` mixes in


def cannot_run(text: str, error: BaseException | None) -> CannotRun:
    """A CannotRun that is also of the class of `error`, so that code which expects that error catches it."""
    kind: Any = type(error)
    if issubclass(kind, CannotRun) or not issubclass(kind, Exception):
        return CannotRun(text)
    try:
        as_both: Any = _kind_of(kind)
        made: CannotRun = as_both.__new__(as_both, text)
    except TypeError:  # an exception of another layout
        return CannotRun(text)
    return made


@functools.cache
def _kind_of(kind: Any) -> type[Any]:
    return type("CannotRun", (CannotRun, kind), {"__str__": Exception.__str__})


class DataDependent(Exception):
    """Python needs a value that depends on the data: the code cannot become a graph."""


class Again(Exception):
    """This trace cannot record the code; a new trace with another setting can (`TraceSettings`)."""


class WrittenConstant(Again):
    """Code writes into a tensor that the trace took for a constant: the call that creates it must be recorded."""


class HashedSize(Again):
    """Python hashes a size (a dictionary's key): the size must be a number."""


class DecidesInFunction(Again):
    """Data decide a branch in plain functions, which may be kept whole if the trace sees their calls.

    Args:
        functions: the functions.
    """

    def __init__(self, functions: Iterable[FunctionType]) -> None:
        super().__init__()
        self.functions = frozenset(functions)


class Converts(Again):
    """A function converts a size to a number of Python's own, and can be changed so that the trace records that.

    Args:
        function: the function.
    """

    def __init__(self, function: FunctionType) -> None:
        super().__init__()
        self.function = function


class Draws(Again):
    """Forward draws random numbers of Python's or numpy's: the modules that do must be kept whole."""


class NextRunDiffers(Again):
    """Modules compute something else in the next run: they must be kept whole.

    Args:
        paths: the modules' paths.
        carriers: the objects that hold their state, and those that refer to these.
        only_carriers: the modules are kept whole already, and only these objects are new.
    """

    def __init__(self, paths: Iterable[str], carriers: Iterable[Any] = (), only_carriers: bool = False) -> None:
        super().__init__()
        self.paths, self.carriers, self.only_carriers = frozenset(paths), tuple(carriers), only_carriers


class NextRunAsks(Again):
    """The next run asks for the form of inputs, of what the run before has left: the emitted network must insist on it.

    Args:
        rank, type: what of it.
    """

    def __init__(self, rank: bool, type: bool) -> None:
        super().__init__("the next run asks for the form of its inputs")
        self.rank, self.type = rank, type


class Unhashable(TypeError):
    """A size was hashed. It is a TypeError, since code that caches by sizes (einops) catches that and goes on."""


class Stores(Exception):
    """An opaque call would store something where the trace does not see it."""


# Errors of the model, not of one part: keeping a part whole does not help.
OF_THE_MODEL = (CannotRun, Again, RecursionError)


def raise_if_hashed(error: BaseException) -> None:
    """Raise HashedSize where an error was caused by hashing a size: the next trace makes sizes numbers."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Unhashable):
            raise HashedSize(str(cause)) from error
        cause = cause.__cause__ or cause.__context__


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
