"""Constrain: graph -> CoB maps and a system of constraints, by abstract interpretation (`interpreter.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import fx

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.constrain.caches import Caches, find_caches
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
        caches: what may have a CoB in an input and in the output (`cached` of `plan`).
    """

    system: System
    maps: dict[fx.Node, Any]
    tensors: dict[str, CobMap]
    wraps: dict[fx.Node, Wrap]
    opaque: list[Opaque]
    rules: dict[str, str]
    conditions: tuple[Condition, ...] = ()
    scaled: dict[fx.Node, Wrap] = field(default_factory=dict)
    caches: Caches = field(default_factory=Caches)


def constrain(
    captured: Captured,
    mode: str = "full",
    norm_stats: str = "fixed",
    strict: bool = False,
    norms: str = "exact",
    cached: str | tuple[str, ...] = "pinned",
) -> Constrained:
    """Find the maps and the constraints of a captured graph.

    Args:
        mode, norm_stats, norms, cached: as `plan` takes them.
        strict: raise a rule's own exception; else its node is pinned, with the exception as the reason.

    Raises:
        InputError: a cache is to have a CoB, and there is none, or it is not plain what it is.
        RuleError: with `strict`, a rule fails in another way than by declining.
    """
    sizing, sources, system = Sizing(captured), Dependence(parameters_of(captured)), System()
    weighty = frozenset(path for path, m in captured.modules.items() if has_parameters(m))
    for graph in captured.graphs:
        sizing.run(graph)
        sources.add(graph, weighty)
    parameters = ParameterMaps(captured, sources, system, fixed_tensors(captured, mode))
    context = RuleContext(system, parameters, sizing, sources)
    named = None if isinstance(cached, str) else cached
    caches = Caches() if cached == "pinned" else find_caches(captured, sizing, system, named)
    state = Interpreter.of(captured, context, Settings(mode == "full", norm_stats, norms), strict, caches)
    for graph in captured.graphs:
        state.run(graph)
    conditions = tuple(dict.fromkeys(context.conditions))
    found = state.wraps, state.opaque, state.rules
    return Constrained(system, state.maps, parameters.decided, *found, conditions, state.scaled, caches)
