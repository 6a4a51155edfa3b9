"""Shared state: attributes through which an opaque module and traced code communicate.

The opaque module's code runs on a copy of the module, in the trace as in an emitted network: traced code does not read
what it sets, nor does it read what traced code sets. So a module that contains both must be kept whole.
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
    """The attributes that were read and written in a finished trace.

    Args:
        parts: the model's modules by path.
        left: the attributes that a forward has left with other values.
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
        """The paths of the opaque modules that share state with traced code."""
        for path in leaves.opaque:
            if path not in self._parts:
                continue
            if any(is_at_or_in(where, path) for where, _ in self._set) or any(self._tells(path)):
                yield path

    def _tells(self, path: str) -> Iterator[bool]:
        """For each attribute of a module that was read from outside: whether the module's code may set it."""
        for where, name in self._read:
            if is_at_or_in(where, path) and name not in BOOKKEEPING:
                value = vars(self._parts[where]).get(name)
                yield isinstance(value, FILLED) or any(
                    may_set(type(part), name) for part in self._parts[path].modules()
                )
