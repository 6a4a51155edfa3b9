"""Shared state: attributes through which a module that is kept whole and traced code tell each other something.

The module's code runs on a copy of its own, in the trace as in an emitted network: what it sets no traced code reads,
and what traced code sets it does not read. So what holds both must be kept whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from fxteleport.passes.capture.attribute_journal import Writes, same
from fxteleport.passes.capture.leaf_table import LeafTable
from fxteleport.passes.graph.code_state import may_set
from fxteleport.passes.graph.contents import FILLED
from fxteleport.passes.graph.module_clone import BOOKKEEPING, path_of
from fxteleport.passes.graph.settings import Reads, is_at_or_in

Place = tuple[str, str]  # (a module's path, the name of an attribute)


class SharedState:
    """What was read and written in a trace that is over.

    Args:
        parts: the model's modules by path.
        left: what any forward has left.
    """

    def __init__(
        self, shadows: Iterable[nn.Module], parts: dict[str, nn.Module], writes: Writes, reads: Reads, left: set[Place]
    ) -> None:
        paths = {id(vars(shadow)): path_of(shadow) for shadow in shadows}
        self._set = {
            (paths[id(t)], name) for t, name, old, now in writes.ends() if id(t) in paths and not same(now, old)
        }
        self._set |= left
        self._read, self._parts = reads.from_outside, parts

    def of(self, leaves: LeafTable) -> Iterator[str]:
        """The paths of the modules kept whole that traced code has told something, or asked."""
        for path in leaves.opaque:
            if path not in self._parts:
                continue
            if any(is_at_or_in(where, path) for where, _ in self._set) or any(self._tells(path)):
                yield path

    def _tells(self, path: str) -> Iterator[bool]:
        """Whether the code of a module may set each attribute in it that was read from outside."""
        for where, name in self._read:
            if is_at_or_in(where, path) and name not in BOOKKEEPING:
                value = vars(self._parts[where]).get(name)
                yield isinstance(value, FILLED) or any(
                    may_set(type(part), name) for part in self._parts[path].modules()
                )
