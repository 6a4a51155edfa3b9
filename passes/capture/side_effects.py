"""Side effects: what a forward leaves behind in buffers and in Python, and a graph does not hand on to the next run."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import fx, nn

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.attribute_journal import Writes
from fxteleport.passes.capture.control_flow import DataDependent
from fxteleport.passes.capture.proxy import node_of, value_of
from fxteleport.passes.capture.tensor_table import TensorTable
from fxteleport.passes.capture.trace_conditions import TraceConditions
from fxteleport.passes.capture.traced_modules import reassigned
from fxteleport.passes.graph.module_clone import BOOKKEEPING, path_of
from fxteleport.passes.graph.structure import PLAIN

NEXT_RUN_DIFFERS = "its forward sets an attribute, and computes something else in the next run"


class SideEffects:
    """Notes the side effects that a plan can name, and rejects those that no graph holds.

    Args:
        names: of the model's own tensors.
        writes: the assignments of forward.
        stateful: paths of modules that compute something else in the next run.
    """

    def __init__(
        self,
        tensors: TensorTable,
        names: Container[Any],
        writes: Writes,
        conditions: TraceConditions,
        stateful: frozenset[str],
    ) -> None:
        self._tensors, self._names, self._writes = tensors, names, writes
        self._conditions, self._stateful = conditions, stateful

    @contextmanager
    def without_drawing(self) -> Iterator[None]:
        """Random numbers of Python's and numpy's that a trace draws are in the graph; who draws next gets the same."""
        python = random.getstate()
        numpy: Any = np.random.get_state()
        try:
            yield
        finally:
            now: Any = np.random.get_state()
            if python != random.getstate() or now[2] != numpy[2] or not np.array_equal(now[1], numpy[1]):
                said = "random numbers of Python's or numpy's are those that the trace drew"
                self._conditions.note("data", said, path="")
                random.setstate(python)
                np.random.set_state(numpy)

    def reject_changed_layers(self) -> None:
        """Raise DataDependent where forward leaves a layer with other settings or tensors than it finds."""
        for key in self._writes.left():
            raise DataDependent(f"its forward leaves a layer with another '{key}' than it finds")

    def reject_state(self, module: nn.Module) -> None:
        """A buffer that forward reads and then replaces is state, which a graph does not hand on to the next run.

        Raises:
            DataDependent: the module has such a buffer, or computes something else in the next run.
        """
        if self._stateful and path_of(module) in self._stateful:
            raise DataDependent(NEXT_RUN_DIFFERS)
        for name, now in reassigned(module).items():
            before = self._tensors.read(name)
            if before is None or proxy.plain(now) is value_of(before):
                continue
            node = node_of(before)
            if not node.users:
                continue
            if not (all(map(_asks_for_size, node.users)) and self._is_made_of_sizes(now, node)):
                raise DataDependent(f"its forward puts another tensor in the place of '{name}', which it reads")

    def plain_state(
        self, shadows: Iterable[nn.Module], read: Container[tuple[str, str]]
    ) -> Iterator[tuple[tuple[str, str], Any]]:
        """Plain attributes that forward may have read, and leaves with another value: (module's path, name), and that.

        Args:
            read: the attributes that were read.
        """
        ends = list(self._writes.ends())
        paths = {id(vars(shadow)): path_of(shadow) for shadow in shadows} if ends else {}
        for table, name, before, now in ends:
            path = paths.get(id(table))
            if path is None or name in BOOKKEEPING or type(now) not in PLAIN:
                continue
            changed = type(now) is not type(before) or now != before
            if changed and ((path, name) in read or type(before) not in PLAIN):
                yield (path, name), now

    def _is_made_of_sizes(self, now: Any, before: fx.Node) -> bool:
        """True for what each run would make the same: of sizes, but that of the tensor in whose place it is put."""
        waiting, seen = [node_of(now)] if proxy.is_proxy(now) else [], set()
        while waiting:
            node = waiting.pop()
            if _asks_for_size(node):
                if before in node.all_input_nodes:
                    return False
            elif node.op == "placeholder" or (node.op == "get_attr" and node.target in self._names):
                return False
            elif node not in seen:
                seen.add(node)
                waiting += node.all_input_nodes
        return True


def _asks_for_size(node: fx.Node) -> bool:
    """True for a node that reads the size, type or device of a tensor, and nothing that is in it."""
    asked = node.args[1] if node.target is getattr else node.target if node.op == "call_method" else None
    return asked in ("shape", "size", "ndim", "dim", "numel", "dtype", "device")
