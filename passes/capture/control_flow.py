"""Exceptions by which a trace changes its course. None of them reaches the user."""

from __future__ import annotations

from collections.abc import Iterable


class CannotRun(Exception):
    """An operation fails on real data too: the model does not run on these inputs."""


class DataDependent(Exception):
    """Python needs to know what depends on the data: the code cannot be a graph."""


class Again(Exception):
    """This trace cannot record what the code does; another one can, with another setting (`TraceSettings`)."""


class WrittenConstant(Again):
    """A tensor that was made from no input, and taken for a constant, is written to: making it must be recorded."""


class HashedSize(Again):
    """Python looks a size up in a table: it must be a number."""


class Draws(Again):
    """Forward draws random numbers of Python's or numpy's: the modules that do must be kept whole."""


class NextRunDiffers(Again):
    """Modules compute something else in the next run: they must be kept whole.

    Args:
        paths: theirs.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        super().__init__()
        self.paths = frozenset(paths)


class Unhashable(TypeError):
    """A size was hashed. It is a TypeError, since code that caches by sizes (einops) catches that and goes on."""


class Stores(Exception):
    """A call that is kept whole would store something where the trace does not see it."""


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
