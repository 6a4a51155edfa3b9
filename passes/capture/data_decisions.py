"""Branches that the example's data decide: the trace takes them as the example does, and a guard checks the run's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from fxteleport.passes.capture.control_flow import DecidesInFunction
from fxteleport.passes.capture.data_guards import deciding
from fxteleport.passes.capture.data_values import DataValues, Unknown
from fxteleport.passes.capture.expressions import Expressions
from fxteleport.passes.capture.opened import handles_in
from fxteleport.passes.capture.plain_functions import functions_of_data
from fxteleport.passes.capture.proxy import Proxy, node_of, value_of
from fxteleport.passes.capture.trace_conditions import TraceConditions
from fxteleport.passes.capture.trace_guards import TraceGuards
from fxteleport.passes.capture.trace_settings import TraceSettings
from fxteleport.passes.graph.guards import expect_data
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.source_location import asking_frame
from fxteleport.passes.graph.structure import PLAIN

_LONGEST = 200


class DataDecisions:
    """Gives the values that the example inputs alone decide, if data guards are allowed.

    Attributes:
        values: the values that the example inputs alone decide.
        any: a value was given.
        fixed: how many decisions have no variant: numbers, and those that depend on other inputs than masks.
    """

    def __init__(
        self, settings: TraceSettings, guards: TraceGuards, conditions: TraceConditions, data: DataValues
    ) -> None:
        self.any, self.fixed = False, 0
        self._is_on = settings.data_guards and not settings.is_body
        self._functions = settings.functions
        self._guards, self._conditions, self.values = guards, conditions, data
        self._expressions = Expressions()
        self._asked: dict[int, fx.Node] = {}  # by the number of what was computed

    def as_in_example(self, handle: Proxy) -> Any:
        """The value of a proxy for the example inputs; the emitted network has a guard on it.

        Raises:
            Unknown: it depends on weights or activations, too, or is no single value.
            DecidesInFunction: the branch is in functions of data alone, which may be kept whole.
        """
        if not self._is_on:
            raise Unknown
        node = node_of(handle)
        found = self.values.of(node)
        value = found.item() if isinstance(found, Tensor) and found.numel() == 1 else found
        if type(value) not in PLAIN:
            raise Unknown
        self.any = True
        if not (type(value) is bool and self._is_of_masks(node)):
            self.fixed += 1
            new = set(functions_of_data(asking_frame(), self.are_data)) - self._functions
            if new:
                raise DecidesInFunction(new)
        if not (self._guards.is_fixed(node) or self._is_asked_again(node)):
            self._conditions.note("data", f"{node.name} is {value!r}, as the example's data decide"[:_LONGEST], node)
            self._guards.fix(expect_data, node, value)
        return value

    def examples(self) -> dict[int, Tensor]:
        """The example's integers and booleans, by the id of their meta tensor; none if no branch depended on them."""
        return self.values.examples() if self.any else {}

    def are_data(self, x: Any) -> bool:
        """True where an argument structure has tensors, and the example inputs alone decide all of them."""
        handles = [h for h in handles_in(x) if isinstance(value_of(h), Tensor)]
        try:
            for handle in handles:
                self.values.of(node_of(handle))
        except Unknown:
            return False
        return bool(handles)

    def _is_of_masks(self, node: fx.Node) -> bool:
        """True where it depends on inputs of zeros and ones, for which there may be variants."""
        inputs = [n for n in (*deciding([node]), node) if n.op == "placeholder" and isinstance(info(n).value, Tensor)]
        values = [self.values.of(n) for n in inputs if not info(n).value.is_floating_point()]
        return bool(values) and all(bool(((v == 0) | (v == 1)).all()) for v in values)

    def _is_asked_again(self, node: fx.Node) -> bool:
        """True where an equal expression has a guard already."""
        before = self._asked.setdefault(self._expressions.number(node), node)
        return before is not node and self._guards.is_fixed(before)
