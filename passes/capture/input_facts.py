"""What Python asks of some tensor, and the input tensors decide: numbers of axes, and types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import fx

from fxteleport.passes.capture.assertions import unpacks
from fxteleport.passes.capture.trace_conditions import TraceConditions
from fxteleport.passes.graph.guards import expect_tensor, guard
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.source_location import Line, asking_frame, calling_line

T = TypeVar("T")


class InputFacts:
    """Notes that a rank or a type was asked for, whichever tensor's; in the end the inputs are guarded.

    Attributes:
        rank, type: a number of axes, or a type, was asked for.
        line: where the first was, by code that would go on with another.
    """

    def __init__(self) -> None:
        self.rank = self.type = False
        self.line: Line | None = None

    def ranked(self, value: T) -> T:
        """Python asks for a number of axes, which is `value`."""
        self.rank = True
        if self.line is None and not unpacks(asking_frame()):
            self.line = calling_line()
        return value

    def add(self, other: InputFacts) -> None:
        """Note what was asked inside a call that is recorded as one node."""
        self.rank |= other.rank
        self.type |= other.type
        self.line = self.line or other.line

    def insist(self, graph: fx.Graph, conditions: TraceConditions, inputs: Sequence[fx.Node], last: fx.Node) -> None:
        """Guard what was asked for, of all input tensors; the guards come after `last`, which reads inputs, too."""
        if not (self.rank or self.type):
            return
        with graph.inserting_after(last):
            for node in reversed(inputs):
                value = info(node).value
                facts = value.ndim if self.rank else None, value.dtype if self.type else None
                guard(graph, expect_tensor, node, *facts, node.name)
        for node in inputs:
            value = info(node).value
            if self.line is not None:
                conditions.note("form", f"'{node.name}' has {value.ndim} axes", node, "", self.line)
            if self.type:
                kind = "a floating-point type" if value.dtype.is_floating_point else str(value.dtype)
                conditions.note("form", f"'{node.name}' is of {kind}", node, "")
