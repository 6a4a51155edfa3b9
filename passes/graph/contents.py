"""Contents: a snapshot of a mutable container: whether it has changed since, and how to restore it."""

from __future__ import annotations

import collections
import operator
from typing import Any

from fxteleport.passes.graph.containers import held, items_of, refill

FILLED = (list, dict, set, collections.deque)  # and their subclasses


def contents(container: Any) -> Any:
    """What a container holds, in a plain dictionary or list."""
    return items_of(container) if isinstance(container, dict) else list(container)


class Contents:
    """A snapshot of a list, a set, a queue or a dictionary.

    Attributes:
        container: the one that is watched.
        before: what it held, in a plain dictionary or list.
    """

    __slots__ = ("before", "container")

    def __init__(self, container: Any) -> None:
        self.container, self.before = container, contents(container)

    def changed(self) -> bool:
        """True if it no longer holds the same objects, in the same order."""
        return not _same(contents(self.container), self.before)

    def restore(self) -> None:
        """Put back what it held, past methods that its class overrides."""
        if self.changed():
            refill(self.container, self.before)


def _same(now: Any, before: Any) -> bool:
    if len(now) != len(before):
        return False
    if isinstance(now, dict) and not all(map(operator.is_, now, before)):
        return False
    pairs = (now.values(), before.values()) if isinstance(now, dict) else (now, before)
    return all(map(operator.is_, *pairs))


def contents_in(x: Any) -> list[Contents]:
    """The lists, sets, queues and dictionaries in a structure of containers, each once, with what they hold."""
    seen, inside = set[int](), list[Contents]()

    def visit(x: Any) -> None:
        if id(x) in seen:
            return
        seen.add(id(x))
        if issubclass(type(x), FILLED):  # no proxy, which claims the class of its value
            inside.append(Contents(x))
        for value in held(x):
            visit(value)

    visit(x)
    return inside
