"""What rules read and change beside the maps that they return, and how that is undone (`rules.call.State`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from fxteleport.passes.constrain.dependence import Dependence, Source
from fxteleport.passes.constrain.parameter_maps import ParameterMaps
from fxteleport.passes.constrain.sizing import Sizing
from fxteleport.passes.domain.constraints import System
from fxteleport.passes.domain.size import Extent
from fxteleport.passes.graph.conditions import Condition


@dataclass
class RuleContext:
    """One for all graphs of a model.

    Attributes:
        sources: which of inputs and parameters each node depends on.
    """

    system: System
    parameters: ParameterMaps
    sizing: Sizing
    sources: Dependence
    conditions: list[Condition] = field(default_factory=list)

    def sizes_of(self, node: fx.Node) -> tuple[Extent, ...]:
        return self.sizing.current(node).sizes  # type: ignore[no-any-return]

    def settled(self, size: Extent) -> Extent:
        return self.sizing.sizes.settled(size)  # type: ignore[no-any-return]

    def example(self, size: Extent) -> int:
        return self.sizing.sizes.value(size)  # type: ignore[no-any-return]

    def is_fixed(self, node: fx.Node) -> bool:
        return self.sources.of(node) is Source.FIXED

    def mark(self) -> tuple[int, ...]:
        return *self.system.mark(), self.parameters.mark(), len(self.conditions)

    def undo(self, mark: tuple[int, ...]) -> None:
        """Undo what a rule did since a mark, before it declined."""
        *system, parameters, conditions = mark
        self.system.undo(system)
        self.parameters.undo(parameters)
        del self.conditions[conditions:]
