"""Marks in a trace, to which it can be rolled back where a part cannot be traced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxteleport.passes.capture.attribute_journal import Writes
from fxteleport.passes.capture.call_stack import CallStack
from fxteleport.passes.capture.control_flow import NextRunDiffers
from fxteleport.passes.capture.graph_builder import GraphBuilder
from fxteleport.passes.capture.handles import Handles
from fxteleport.passes.capture.held_objects import HeldObjects
from fxteleport.passes.capture.tensor_table import TensorTable
from fxteleport.passes.capture.trace_conditions import TraceConditions
from fxteleport.passes.capture.trace_settings import TraceSettings
from fxteleport.passes.graph.contents import Contents, contents_in


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a trace.

    Attributes:
        node: the last node.
        moves: the number of moves of proxies (`Handles`).
        writes: the number of assignments (`Writes`).
        depth: the number of running modules.
        contents: snapshots of the lists and dictionaries among a call's arguments.
    """

    node: fx.Node | None
    moves: int = 0
    writes: int = 0
    depth: int = 0
    contents: Sequence[Contents] = ()


class History:
    """Sets marks, and undoes what was recorded since."""

    def __init__(
        self,
        settings: TraceSettings,
        builder: GraphBuilder,
        handles: Handles,
        tensors: TensorTable,
        conditions: TraceConditions,
        stack: CallStack,
        writes: Writes,
        held: HeldObjects,
    ) -> None:
        self._stateful, self._held = settings.stateful, held
        self._builder, self._handles, self._tensors = builder, handles, tensors
        self._conditions, self._stack, self._writes = conditions, stack, writes

    def mark(self, arguments: Any) -> Mark:
        """A mark before a call with these arguments."""
        return Mark(self._builder.last, len(self._handles), len(self._writes), len(self._stack), contents_in(arguments))

    def undo(self, mark: Mark) -> None:
        """Erase what was recorded since, and restore lists and dictionaries.

        Raises:
            NextRunDiffers: other objects were changed, whose contents at the mark are not known.
        """
        if left := self._held.left():
            left.require_own()
            if not left.owners <= self._stateful:
                raise NextRunDiffers(left.owners, left.carriers)
            self._held.restore()
        self._stack.unwind(mark.depth)
        for held in mark.contents:
            held.restore()
        self._handles.undo(mark.moves)
        alive = self._builder.erase_after(mark.node)
        self._tensors.keep_only(alive)
        self._conditions.keep_only(alive)
