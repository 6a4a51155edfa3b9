"""The interpreter: visits the nodes of a graph in order, and applies to each the rule of its operation.

It gives a node's arguments to the rule (`rules/`) and stores the map that the rule returns. Soundness: an operation
that no rule knows, or that a rule declines, pins all its inputs and outputs, and is reported with the reason.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx, nn

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.constrain import call_bodies
from fxteleport.passes.constrain.caches import Caches
from fxteleport.passes.constrain.node_maps import NodeMaps, attribute_map
from fxteleport.passes.constrain.refusals import reads_numbers, refusal, refusal_without_tensors
from fxteleport.passes.constrain.region_maps import RegionMaps
from fxteleport.passes.constrain.rule_application import Settings, apply_rule
from fxteleport.passes.constrain.rule_context import RuleContext
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.domain.constraints import Origin, System
from fxteleport.passes.errors import Decline, RuleError
from fxteleport.passes.graph.assembly import Assemble
from fxteleport.passes.graph.grad_mode import switch
from fxteleport.passes.graph.guards import GUARDS, expect, expect_data
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.ops import holds_tensor
from fxteleport.passes.graph.structure import LEAVING
from fxteleport.passes.rules.call import Wrap
from fxteleport.passes.rules.operand import carries
from fxteleport.passes.rules.operands import map_like, maps_in, part_of
from fxteleport.passes.rules.registry import RULES


@dataclass(frozen=True, slots=True)
class Opaque:
    """A node that no rule knows, with the reason."""

    node: str
    path: str
    why: str


@dataclass
class Interpreter:
    """One run over graphs that share a system of constraints.

    Attributes:
        settings: what rules may do.
        strict: raise a rule's own exception, instead of reporting it as the reason why a node is opaque.
        maps, wraps, scaled, opaque, rules, caches: see `Constrained`.
        regions: the graphs' regions, with the maps of their nodes.
    """

    captured: Captured
    context: RuleContext
    settings: Settings
    strict: bool
    maps: NodeMaps
    regions: RegionMaps
    caches: Caches
    wraps: dict[fx.Node, Wrap] = field(default_factory=dict)
    scaled: dict[fx.Node, Wrap] = field(default_factory=dict)
    opaque: list[Opaque] = field(default_factory=list)
    rules: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, captured: Captured, context: RuleContext, settings: Settings, strict: bool, caches: Caches
    ) -> Interpreter:
        maps = NodeMaps(context)
        regions = RegionMaps(context, captured.modules, maps, settings)
        return cls(captured, context, settings, strict, maps, regions, caches)

    @property
    def system(self) -> System:
        return self.context.system

    def run(self, graph: fx.Graph) -> None:
        """Visit the nodes that have no map yet."""
        self.regions.find(graph)
        for node in graph.nodes:
            if node not in self.maps:
                self.maps[node] = self.visit(node)

    def visit(self, node: fx.Node) -> Any:
        """The map of a node: an operation's by its rule, any other's by the cases here."""
        known = info(node)
        value = known.value
        if node in self.regions:
            return self.in_region(node)
        if node in self.caches.read:
            return self.caches.map_of(node)
        if node.op == "placeholder":
            return map_like(value)
        if node.op == "output":
            self.pin_all(node, "it is an output of the network")
            return None
        if node.op == "get_attr":
            return attribute_map(self.context.parameters, node, value)
        if node.target in (expect, expect_data):
            self.pin_all(node, "its value decides what the network computes")
        if node.target in GUARDS or node.target is switch:
            return None
        if node.target in LEAVING:
            self.pin_all(node, "it is left in an input of the network")
            return None
        module = self.captured.modules.get(str(node.target)) if node.op == "call_module" else None
        maker = node.target if module is None else module
        if isinstance(maker, (type, Assemble)) and maker not in RULES:
            made = maker.made if isinstance(maker, Assemble) else maker.__name__
            self.pin_all(node, f"it is put into a {made}")
            return self.caches.built(node, value, self.maps.convert)
        source = node.args[0] if node.args else None
        if node.target in (operator.getitem, getattr) and isinstance(source, fx.Node):
            held = info(source).value
            if not isinstance(held, Tensor):
                return part_of(held, self.maps[source], node.args[1], value)
        if not holds_tensor(value):
            if (known.trust or node.op == "call_module") and reads_numbers(node, value):
                self.pin_all(node, "a number is made of its values")
            why = refusal_without_tensors(node, value) if self.maps.operands(node) else None
            return map_like(value) if why is None else self.give_up(node, why)
        result = self.apply(node, module, value)
        if known.is_aliased:
            _bind_written(self.context, node, result, node in self.wraps)
        return result

    def pin_all(self, node: fx.Node, why: str) -> None:
        """Pin the operands of a node, but for what goes into a cache."""
        for operand in self.maps.operands(node, self.caches.put(node, self.maps.convert, self.context)):
            self.context.parameters.pin(operand, Origin(node.name, why))

    def in_region(self, node: fx.Node) -> Any:
        """The map of a node that is in a region."""
        self.rules[node.name] = "region"
        cob, wrap, scaled = self.regions.of(node)
        self._note(node, wrap, scaled)
        return cob

    def _note(self, node: fx.Node, wrap: Wrap | None, scaled: Wrap | None) -> None:
        """Store how a node is wrapped, and which factor a norm with a fixed epsilon takes."""
        if wrap is not None:
            self.wraps[node] = wrap
        if scaled is not None:
            self.scaled[node] = scaled

    def apply(self, node: fx.Node, module: nn.Module | None, value: Any) -> Any:
        """Look up the node's rule and run it as a transaction."""
        sized = self.context.sizing.current(node)
        why = refusal(self.captured, node, module, value, sized)
        if why is not None:
            return self.give_up(node, why)
        mark = self.context.mark()
        try:
            if node in self.captured.branches:
                return self.branches(node, value, self.captured.branches[node])
            done = apply_rule(self.context, self.maps, self.settings, node, module, value)
            if done.rule is not None:
                self.rules[node.name] = done.rule
            self._note(node, done.wrap, done.scaled)
            return done.maps
        except Decline as reason:
            self.context.undo(mark)
            return self.give_up(node, str(reason))
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            if self.strict:
                raise RuleError(f"the rule of {node.name} ({_target_name(node)}) fails: {error}") from error
            self.context.undo(mark)
            return self.give_up(node, f"its rule failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}")

    def give_up(self, node: fx.Node, why: str) -> Any:
        """Pin the operands of a node and its parameters, and report it as opaque."""
        parameters = self.context.parameters
        origin = Origin(node.name, f"'{_target_name(node)}': {why}")
        own = parameters.under(str(node.target)) if node.op == "call_module" else []
        for operand in (*self.maps.operands(node), *own):
            parameters.pin(operand, origin)
        self.opaque.append(Opaque(node.name, info(node).path, origin.why))
        return map_like(info(node).value)

    def branches(self, node: fx.Node, value: Any, graphs: tuple[fx.Graph, ...]) -> Any:
        """The map of a call with several graphs, which must be right in each of them."""
        operands, backward, full = self.maps.operands(node), self.captured.backwards.get(node), self.settings.full
        result, is_wrapped = call_bodies.whole(self.inside, node, value, operands, graphs, backward, full)
        if is_wrapped:
            self.wraps[node] = Wrap(self.maps.convert(node.args[0]).map, result)
        self.rules[node.name] = "inside"
        return result

    def inside(self, full: bool) -> Interpreter:
        """An interpreter of the graphs inside a call, in the same system."""
        settings = replace(self.settings, full=full, norms="exact")
        return Interpreter.of(self.captured, self.context, settings, self.strict, self.caches)


def _bind_written(context: RuleContext, node: fx.Node, result: Any, is_wrapped: bool) -> None:
    """Pin what is written in place and read elsewhere; what a run leaves in a state gets the state's CoB instead."""
    state = context.parameters.operand(info(node).state) if info(node).state else None
    if state is not None and not state.is_unbound and not is_wrapped and isinstance(result, CobMap):
        context.system.same(result, state.map, Origin(node.name, "the next run reads what it writes"))
        return
    why = Origin(node.name, "it is written in place and read elsewhere")
    for leaf in maps_in(result):
        context.system.pin(leaf, why)
    if state is not None and carries(state.value):
        context.parameters.pin(state, why)


def _target_name(node: fx.Node) -> str:
    target: Callable[..., Any] | str = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
