"""The interpreter: the nodes of a graph, one after another, each with the rule of its operation.

It hands a node's arguments to the rule (`rules/`) and keeps the map that comes back. Soundness: an operation that no
rule knows, or that a rule declines, pins all its inputs and outputs, and is reported with the reason.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.capture.opaque_leaves import Given
from fxteleport.passes.constrain import call_bodies
from fxteleport.passes.constrain.fitting import at_all_sizes, fitted
from fxteleport.passes.constrain.node_maps import NodeMaps, Reference
from fxteleport.passes.constrain.refusals import refusal, refusal_without_tensors
from fxteleport.passes.constrain.regions import Region, factor_before, map_behind, power_of, regions
from fxteleport.passes.constrain.rule_context import RuleContext
from fxteleport.passes.domain.cob_map import IDENTITY, CobMap, structural_zeros
from fxteleport.passes.domain.constraints import Origin, System
from fxteleport.passes.errors import Decline, RuleError
from fxteleport.passes.graph.assembly import Assemble
from fxteleport.passes.graph.conditions import Condition
from fxteleport.passes.graph.grad_mode import switch
from fxteleport.passes.graph.guards import GUARDS, expect, expect_data
from fxteleport.passes.graph.leaf_modules import is_stateful
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.ops import holds_tensor
from fxteleport.passes.graph.source_location import quoted
from fxteleport.passes.graph.structure import LEAVING
from fxteleport.passes.rules import folds as folded
from fxteleport.passes.rules.call import EPSILON_STAYS, Call, Operand, Wrap, carries, is_dense
from fxteleport.passes.rules.operands import map_like, maps_in, maps_of, operands_in, part_of
from fxteleport.passes.rules.registry import RULES, bound, lookup


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
        full: nodes may be wrapped.
        strict: an exception of a rule's own is raised, and not reported as the reason for a node that is opaque.
        maps, wraps, scaled, opaque, rules: see `Constrained`.
        regions: the region of each node that is in one.
        factors: of norms among them whose epsilon stays, the map of their entry.
    """

    captured: Captured
    context: RuleContext
    full: bool
    norm_stats: str
    norms: str
    strict: bool
    maps: NodeMaps
    wraps: dict[fx.Node, Wrap] = field(default_factory=dict)
    scaled: dict[fx.Node, Wrap] = field(default_factory=dict)
    opaque: list[Opaque] = field(default_factory=list)
    rules: dict[str, str] = field(default_factory=dict)
    regions: dict[fx.Node, Region] = field(default_factory=dict)
    factors: dict[Region, CobMap] = field(default_factory=dict)

    @property
    def system(self) -> System:
        return self.context.system

    def run(self, graph: fx.Graph) -> None:
        """Visit the nodes that have no map yet."""
        if self.full:
            self.regions |= regions(graph, self.captured.modules, self.context.sources)
        elif self.norms == "scaled":  # elementwise ones, and norms without an epsilon, the rules of operations know
            found = regions(graph, self.captured.modules, self.context.sources)
            self.regions |= {n: r for n, r in found.items() if r.common is not None and r.common.epsilons}
        for node in graph.nodes:
            if node not in self.maps:
                self.maps[node] = self.visit(node)

    def visit(self, node: fx.Node) -> Any:
        """The map of a node: of an operation by its rule, of the others here."""
        known = info(node)
        value = known.value
        if node in self.regions:
            return self.in_region(node, self.regions[node])
        if node.op == "placeholder":
            return map_like(value)
        if node.op == "output":
            for operand in operands_in(self.maps.convert(node.args)):
                self.system.pin(operand.map, Origin(node.name, "it is an output of the network"))
            return None
        if node.op == "get_attr":
            return self.attribute(node, value)
        if node.target in (expect, expect_data):
            for operand in operands_in(self.maps.convert(node.args)):
                self.context.parameters.pin(operand, Origin(node.name, "its value decides what the network computes"))
        if node.target in GUARDS or node.target is switch:
            return None
        if node.target in LEAVING:
            for operand in operands_in(self.maps.convert(node.args)):
                self.context.parameters.pin(operand, Origin(node.name, "it is left in an input of the network"))
            return None
        module = self.captured.modules.get(str(node.target)) if node.op == "call_module" else None
        maker = node.target if module is None else module
        if isinstance(maker, (type, Assemble)) and maker not in RULES:
            made = maker.made if isinstance(maker, Assemble) else maker.__name__
            for operand in self.maps.operands(node):
                self.context.parameters.pin(operand, Origin(node.name, f"it is put into a {made}"))
            return map_like(value)
        source = node.args[0] if node.args else None
        if node.target in (operator.getitem, getattr) and isinstance(source, fx.Node):
            held = info(source).value
            if not isinstance(held, Tensor):
                return part_of(held, self.maps[source], node.args[1], value)
        if not holds_tensor(value):
            why = refusal_without_tensors(node, value) if self.maps.operands(node) else None
            return map_like(value) if why is None else self.give_up(node, why)
        result = self.apply(node, module, value)
        if known.is_aliased:
            for leaf in maps_in(result):
                self.system.pin(leaf, Origin(node.name, "it is written in place and read through another view"))
        return result

    def attribute(self, node: fx.Node, value: Any) -> Any:
        """The map of a parameter, a buffer, a constant or another attribute that the graph reads."""
        if node.target in self.captured.metas and carries(value):
            if info(node).is_aliased:
                operand = self.context.parameters.operand(str(node.target))
                self.context.parameters.pin(operand, Origin(node.name, "the network writes to it"))
            return Reference(str(node.target))
        if isinstance(value, Tensor) and carries(value) and value.layout is torch.strided and not value.any():
            return structural_zeros(value.ndim)  # the first state of a recurrent network, say
        return IDENTITY if isinstance(value, Tensor) else None

    def in_region(self, node: fx.Node, region: Region) -> Any:
        """Inside a region the values are the original's; what comes out has the region's map."""
        self.rules[node.name] = "region"
        if self.norms == "scaled":
            return self.in_scaled_norm(node, region)
        if node is not region.exit:
            return map_like(info(node).value)
        cob, wrap = map_behind(region, self.maps.convert(region.entry), self.system)
        if wrap is not None:
            self.wraps[node] = wrap
        return cob

    def in_scaled_norm(self, node: fx.Node, region: Region) -> Any:
        """Inside a norm whose epsilon stays the values have powers of the entry's factor."""
        assert region.common is not None
        if region not in self.factors:
            self.factors[region] = factor_before(region, self.maps.convert(region.entry), self.system)
        one, known = self.factors[region], info(node)
        if node is region.exit and one.factors:
            self.scaled[node] = Wrap(one, None, region=(region.entry, region.inside), common=region.common)
            self.context.conditions.append(
                Condition("norm", node.name, known.path, quoted(known.source), EPSILON_STAYS)
            )
        parts = known.value if isinstance(known.value, tuple) else (known.value,)
        degrees = region.common.degrees[node.name]
        maps = [power_of(one, degree, part.ndim) for degree, part in zip(degrees, parts, strict=True)]
        return maps if isinstance(known.value, tuple) else maps[0]

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
            args, kwargs = self.maps.convert(node.args), self.maps.convert(node.kwargs)
            if isinstance(module, Given):  # its rule finds its tensors among the arguments; counters have no CoB
                module = module.layer
                kwargs = {k: v for k, v in kwargs.items() if not isinstance(v, Operand) or carries(v.value)}
            operands = operands_in((args, kwargs))
            constant = operands and not any(operand.moves for operand in operands)
            if constant and (module is None or not is_stateful(module)):
                return map_like(value)
            full = self.full and all(map(is_dense, (value, *operands))) and not self.context.is_fixed(node)
            call = Call(node, value, args, kwargs, module, self.context, full, self.norm_stats, self.norms)
            if node.target in _OF_LISTS and isinstance(value, (list, tuple)):
                return self.give_up(node, "how many items there are is not known")
            rule = lookup(node.op, node.target if module is None else module)
            if rule is None:
                return self.give_up(node, "no rule knows this operation")
            self.rules[node.name] = rule.name
            told = rule.shape is not None
            folds = folded.through(call, rule.along if told else None, operands)
            positional, named = bound(rule, args, kwargs, module, self.own(node))
            result = fitted(value, rule.apply(call, operands, positional, named))
            result = at_all_sizes(self.system, self.context.sizing, node, result, told, folds)
            if call.wrapping is not None:
                self.wraps[node] = call.wrapping
            if call.scaled is not None:
                self.scaled[node] = call.scaled
            return result
        except Decline as reason:
            self.context.undo(mark)
            return self.give_up(node, str(reason))
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            if self.strict:
                raise RuleError(f"the rule of {node.name} ({_target_name(node)}) fails: {error}") from error
            self.context.undo(mark)
            return self.give_up(node, f"its rule failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}")

    def own(self, node: fx.Node) -> Callable[[str], Operand]:
        """A parameter or buffer of the module that a node calls, by its name there."""
        return lambda name: self.context.parameters.operand(f"{node.target}.{name}")

    def give_up(self, node: fx.Node, why: str) -> Any:
        """Pin everything around a node."""
        parameters = self.context.parameters
        origin = Origin(node.name, f"'{_target_name(node)}': {why}")
        own = parameters.under(str(node.target)) if node.op == "call_module" else []
        for operand in (*self.maps.operands(node), *own):
            parameters.pin(operand, origin)
        self.opaque.append(Opaque(node.name, info(node).path, origin.why))
        return map_like(info(node).value)

    # -- calls that are kept whole ---------------------------------------------------------------------

    def branches(self, node: fx.Node, value: Any, graphs: tuple[fx.Graph, ...]) -> Any:
        """A call that is kept whole: its map must be right in each of its graphs.

        Of one from a tensor to a tensor an operation inside may need another form: then the whole call is given one.
        """
        first, operands = next(iter(node.args), None), self.maps.operands(node)
        for operand in operands:
            for axis, _ in operand.folds:
                operand.unfold(self.system, axis, Origin(node.name, "how many positions there are is not known"))
        is_tensor = isinstance(first, fx.Node) and isinstance(info(first).value, Tensor)
        whole = self.full and isinstance(value, Tensor) and len(operands) == 1 and is_tensor
        inner = self.inside(whole)
        result = call_bodies.interpret(inner, node, value, operands, graphs)
        backward = self.captured.backwards.get(node)
        if backward is not None and not whole:
            call_bodies.obey(self.inside(False), node, backward, operands, value, result)
        elif inner.wraps or backward is not None:  # in tau f(x / tau), f's backward sees what it sees in the original
            self.wraps[node] = Wrap(self.maps.convert(first).map, result)
        self.rules[node.name] = "inside"
        return result

    def inside(self, full: bool) -> Interpreter:
        """An interpreter of the graphs inside a call, in the same system."""
        return replace(self, full=full, norms="exact", maps=NodeMaps(self.context), wraps={}, opaque=[], rules={})

    def within(self, graph: fx.Graph, operands: Sequence[Operand]) -> Any:
        """The output's maps of a graph of a call's inside, for given inputs."""
        given = [n for n in graph.nodes if n.op == "placeholder" and isinstance(info(n).value, Tensor)]
        if len(given) != len(operands):
            raise Decline("it takes tensors out of an object")
        for node, operand in zip(given, operands, strict=True):
            self.maps[node] = operand.map if operand.name is None else Reference(operand.name)
        output = graph.output_node()
        self.maps[output] = None  # the call's own map is what is constrained
        self.run(graph)
        return maps_of(self.maps.convert(output.args[0]))


_OF_LISTS = (operator.add, operator.mul)  # which join and repeat them; a node does so where other inputs decide that


def _target_name(node: fx.Node) -> str:
    target: Callable[..., Any] | str = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
