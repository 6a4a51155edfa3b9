"""Constrain: graph -> CoB maps and a system of constraints, by abstract interpretation (`interpreter.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import fx

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.constrain.dependence import Dependence, parameters_of
from fxteleport.passes.constrain.fixed_tensors import fixed_tensors
from fxteleport.passes.constrain.interpreter import Interpreter, Opaque
from fxteleport.passes.constrain.parameter_maps import ParameterMaps
from fxteleport.passes.constrain.rule_application import Settings
from fxteleport.passes.constrain.rule_context import RuleContext
from fxteleport.passes.constrain.sizing import Sizing
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.domain.constraints import System
from fxteleport.passes.graph.conditions import Condition
from fxteleport.passes.graph.leaf_modules import has_parameters
from fxteleport.passes.rules.call import Wrap


@dataclass(frozen=True)
class Constrained:
    """The result of the constraint pass.

    Attributes:
        system: symbols and constraints.
        maps: node -> its CobMap (or the tuple, list... of them, None where there is no tensor).
        tensors: canonical parameter or buffer name -> its CobMap.
        wraps: nodes that are wrapped.
        scaled: norms whose input may have a factor, without a wrap (`norms="scaled"`).
        opaque: nodes that no rule covers.
        rules: node name -> name of the rule that was applied.
        conditions: what the rules assume: a number, a mode.
    """

    system: System
    maps: dict[fx.Node, Any]
    tensors: dict[str, CobMap]
    wraps: dict[fx.Node, Wrap]
    opaque: list[Opaque]
    rules: dict[str, str]
    conditions: tuple[Condition, ...] = ()
    scaled: dict[fx.Node, Wrap] = field(default_factory=dict)


def constrain(
    captured: Captured, mode: str = "full", norm_stats: str = "fixed", strict: bool = False, norms: str = "exact"
) -> Constrained:
    """Find the maps and the constraints of a captured graph.

    Args:
        mode, norm_stats, norms: as `plan` takes them.
        strict: raise a rule's own exception; else its node is pinned, with the exception as the reason.

    Raises:
        RuleError: with `strict`, a rule fails in another way than by declining.
    """
    sizing, sources, system = Sizing(captured), Dependence(parameters_of(captured)), System()
    weighty = frozenset(path for path, m in captured.modules.items() if has_parameters(m))
    for graph in captured.graphs:
        sizing.run(graph)
        sources.add(graph, weighty)
    parameters = ParameterMaps(captured, sources, system, fixed_tensors(captured, mode))
    context = RuleContext(system, parameters, sizing, sources)
    state = Interpreter.of(captured, context, Settings(mode == "full", norm_stats, norms), strict)
    for graph in captured.graphs:
        state.run(graph)
    conditions = tuple(dict.fromkeys(context.conditions))
    return Constrained(
        system, state.maps, parameters.decided, state.wraps, state.opaque, state.rules, conditions, state.scaled
    )
