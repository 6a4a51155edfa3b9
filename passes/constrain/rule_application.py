"""Applying a rule to one node: the rule's arguments, and its result."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from fxteleport.passes.capture.opaque_leaves import Given
from fxteleport.passes.constrain.fitting import at_all_sizes, fitted
from fxteleport.passes.constrain.node_maps import NodeMaps
from fxteleport.passes.constrain.rule_context import RuleContext
from fxteleport.passes.errors import Decline
from fxteleport.passes.graph.leaf_modules import is_stateful
from fxteleport.passes.record import record
from fxteleport.passes.rules import folds as folded
from fxteleport.passes.rules.call import Call, Wrap
from fxteleport.passes.rules.operand import Operand, carries, is_dense
from fxteleport.passes.rules.operands import map_like, operands_in
from fxteleport.passes.rules.registry import bound, lookup

_OF_LISTS = (operator.add, operator.mul)  # nodes join and repeat lists only where the length depends on the inputs


@dataclass(frozen=True)
class Settings:
    """What a rule may do: `full`: wrap its node; `norm_stats`, `norms`: see `plan`."""

    full: bool
    norm_stats: str
    norms: str


@record()
class Applied:
    """The result of a node's rule.

    Attributes:
        maps: the maps of the node's results.
        rule: the rule's name; None where all operands are constants, and no rule is applied.
        wrap: how the node is wrapped, if it is.
        scaled: the factor that a norm takes which keeps its epsilon.
    """

    maps: Any
    rule: str | None = None
    wrap: Wrap | None = None
    scaled: Wrap | None = None


def apply_rule(
    context: RuleContext, maps: NodeMaps, settings: Settings, node: fx.Node, module: nn.Module | None, value: Any
) -> Applied:
    """Look up a node's rule, and apply it.

    Raises:
        Decline: no rule covers the call.
    """
    args, kwargs = maps.convert(node.args), maps.convert(node.kwargs)
    if isinstance(module, Given):  # its rule finds its tensors among the arguments; counters have no CoB
        module = module.layer
        kwargs = {k: v for k, v in kwargs.items() if not isinstance(v, Operand) or carries(v.value)}
    operands = operands_in((args, kwargs))
    constant = operands and not any(operand.moves for operand in operands)
    if constant and (module is None or not is_stateful(module)):
        return Applied(map_like(value))
    full = settings.full and all(map(is_dense, (value, *operands))) and not context.is_fixed(node)
    call = Call(node, value, args, kwargs, module, context, full, settings.norm_stats, settings.norms)
    if node.target in _OF_LISTS and isinstance(value, (list, tuple)):
        raise Decline("how many items there are is not known")
    rule = lookup(node.op, node.target if module is None else module)
    if rule is None:
        raise Decline("no rule knows this operation")
    told = rule.shape is not None
    folds = folded.through(call, rule.along if told else None, operands)
    positional, named = bound(rule, args, kwargs, module, _parameters_of(context, node))
    result = fitted(value, rule.apply(call, operands, positional, named))
    result = at_all_sizes(context.system, context.sizing, node, result, told, folds)
    return Applied(result, rule.name, call.wrapping, call.scaled)


def _parameters_of(context: RuleContext, node: fx.Node) -> Callable[[str], Operand]:
    """A parameter or buffer of the module that a node calls, by its name there."""
    return lambda name: context.parameters.operand(f"{node.target}.{name}")
