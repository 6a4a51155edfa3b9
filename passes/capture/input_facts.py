"""What Python asks of some tensor, and the input tensors decide: numbers of axes, types, whether they are there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from torch import fx

from fxteleport.passes.capture.assertions import insists, unpacks
from fxteleport.passes.capture.graph_builder import GraphBuilder
from fxteleport.passes.capture.replay import Shapes, other_ranks
from fxteleport.passes.capture.size_texts import will_be_message
from fxteleport.passes.capture.trace_conditions import TraceConditions
from fxteleport.passes.graph.guards import expect_form, expect_tensor, guard
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.source_location import Line, asking_frame, calling_line

T = TypeVar("T")


class InputFacts:
    """Notes that a rank or a type was read, of whichever tensor; at the end guards on the inputs are added.

    Args:
        ranks, types: they are in any case.

    Attributes:
        rank, type: a number of axes, or a type, was asked for.
        kind: whether something is a tensor was asked.
        line: where the first number of axes was, by code that would go on with another.
    """

    def __init__(self, builder: GraphBuilder, ranks: bool = False, types: bool = False) -> None:
        self.rank, self.type = ranks, types
        self.kind = False
        self.line: Line | None = None
        self._node: fx.Node | None = None  # the last node then
        self._builder = builder

    def ranked(self, value: T) -> T:
        """Note that Python reads a rank, which is `value`."""
        self.rank = True
        frame = asking_frame()
        is_said = frame is not None and will_be_message(frame)
        if self.line is None and not (is_said or unpacks(frame) or insists(frame)):
            self.line, self._node = calling_line(), self._builder.last
        return value

    def add(self, other: InputFacts) -> None:
        """Take over what was read inside a call that is recorded as one node."""
        self.rank |= other.rank
        self.type |= other.type
        self.kind |= other.kind
        if self.line is None and other.line is not None:
            self.line, self._node = other.line, self._builder.last

    def insist(
        self,
        conditions: TraceConditions,
        inputs: Sequence[fx.Node],
        last: fx.Node,
        runs: Callable[[fx.Graph, Shapes, fx.Node], bool],
        tested: Collection[str] = (),
    ) -> None:
        """Guard the ranks and types of all input tensors, as far as they were read.

        Args:
            last: the guards come after it; it reads inputs, too.
            runs: whether a graph runs on inputs of other shapes as far as a node.
            tested: the names that code compares with None, which no proxy sees.
        """
        if not (self.rank or self.type or self.kind or tested):
            return
        graph = self._builder.graph
        takes_others = self.line is not None and self._takes_other_ranks(graph, inputs, runs)
        with graph.inserting_after(last):
            for node in reversed(inputs):
                value = info(node).value
                facts = value.ndim if self.rank else None, value.dtype if self.type else None
                guard(graph, expect_tensor, node, *facts, node.name)
        for node in inputs:
            value = info(node).value
            if takes_others:
                conditions.note("form", f"'{node.name}' has {value.ndim} axes", node, "", self.line)
            is_optional = any(user.target is expect_form for user in node.users)  # that it is given, is noted already
            if node.target in tested and node.op == "placeholder" and not is_optional:
                conditions.note("form", f"'{node.name}' is given", node, "")
            if self.type:
                kind = "a floating-point type" if value.dtype.is_floating_point else str(value.dtype)
                conditions.note("form", f"'{node.name}' is of {kind}", node, "")

    def _takes_other_ranks(
        self, graph: fx.Graph, inputs: Sequence[fx.Node], runs: Callable[[fx.Graph, Shapes, fx.Node], bool]
    ) -> bool:
        """Whether forward runs on inputs of other ranks up to the node at which Python read a rank."""
        last = self._node
        if last is None or last._erased:
            return True
        return any(runs(graph, shapes, last) for shapes in other_ranks(inputs))
