"""Exceptions by which a trace changes its course. None of them reaches the user."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from types import FunctionType
from typing import Any


class CannotRun(Exception):
    """An operation fails on real data too: the model does not run on these inputs, or its code catches the error."""

    __str__ = Exception.__str__  # whatever else it is (`cannot_run`)


def cannot_run(text: str, error: BaseException | None) -> CannotRun:
    """That an operation fails with an error, in a form which code that expects the error catches."""
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
    """Python needs to know what depends on the data: the code cannot be a graph."""


class Again(Exception):
    """This trace cannot record what the code does; another one can, with another setting (`TraceSettings`)."""


class WrittenConstant(Again):
    """A tensor that was made from no input, and taken for a constant, is written to: making it must be recorded."""


class HashedSize(Again):
    """Python looks a size up in a table: it must be a number."""


class DecidesInFunction(Again):
    """The data decide in plain functions, which may be kept whole if their calls are seen.

    Args:
        functions: those.
    """

    def __init__(self, functions: Iterable[FunctionType]) -> None:
        super().__init__()
        self.functions = frozenset(functions)


class Converts(Again):
    """A function makes a number of Python's own of a size, and can be made to leave that to the trace.

    Args:
        function: that.
    """

    def __init__(self, function: FunctionType) -> None:
        super().__init__()
        self.function = function


class Draws(Again):
    """Forward draws random numbers of Python's or numpy's: the modules that do must be kept whole."""


class NextRunDiffers(Again):
    """Modules compute something else in the next run: they must be kept whole.

    Args:
        paths: theirs.
        carriers: the objects in which they keep what they need for that, and those that lead there.
    """

    def __init__(self, paths: Iterable[str], carriers: Iterable[Any] = ()) -> None:
        super().__init__()
        self.paths, self.carriers = frozenset(paths), tuple(carriers)


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
    """A call that is kept whole would store something where the trace does not see it."""


# Errors of the whole model: another trace, or a way to run it, is needed, and to keep a part whole does not help.
OF_THE_MODEL = (CannotRun, Again, RecursionError)


def raise_if_hashed(error: BaseException) -> None:
    """Raise HashedSize where an error was caused by the hash of a size: then the next trace takes sizes for numbers."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Unhashable):
            raise HashedSize(str(cause)) from error
        cause = cause.__cause__ or cause.__context__


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
