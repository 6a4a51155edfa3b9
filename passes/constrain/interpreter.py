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
from torch import Tensor, fx

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.capture.opaque_leaves import Given
from fxteleport.passes.constrain import call_bodies
from fxteleport.passes.constrain.dependence import Dependence, Source
from fxteleport.passes.constrain.fitting import at_all_sizes, fitted, has_more
from fxteleport.passes.constrain.parameter_maps import ParameterMaps
from fxteleport.passes.constrain.regions import Region, regions
from fxteleport.passes.constrain.sizing import Sizing
from fxteleport.passes.domain.cob_map import IDENTITY, CobMap, structural_zeros
from fxteleport.passes.domain.constraints import Origin, System
from fxteleport.passes.domain.size import Extent, Size
from fxteleport.passes.errors import Decline, RuleError
from fxteleport.passes.graph.conditions import Condition
from fxteleport.passes.graph.grad_mode import switch
from fxteleport.passes.graph.guards import GUARDS
from fxteleport.passes.graph.leaf_modules import changes_gradients, hooked, is_stateful
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.ops import leaves_of
from fxteleport.passes.graph.structure import Assemble
from fxteleport.passes.rules import folds as folded
from fxteleport.passes.rules.call import Call, Operand, Unknown, Wrap, carries, is_dense
from fxteleport.passes.rules.operands import map_like, maps_in, maps_of, of_nodes, operands_in, part_of
from fxteleport.passes.rules.registry import RULES, bound, lookup
from fxteleport.passes.rules.shape_functions import Sized


@dataclass(frozen=True, slots=True)
class Opaque:
    """A node that no rule knows, with the reason."""

    node: str
    path: str
    why: str


@dataclass
class Interpreter:
    """The state of one run: maps so far, and a mark of each list that undoes a rule which declines half way.

    Attributes:
        full: nodes may be wrapped.
        strict: an exception of a rule's own is raised, and not reported as the reason for a node that is opaque.
        regions: the region of each node that is in one.
        sources: which of inputs and parameters each node depends on.
    """

    captured: Captured
    sizing: Sizing
    sources: Dependence
    parameters: ParameterMaps
    system: System
    full: bool
    norm_stats: str
    strict: bool = False
    maps: dict[fx.Node, Any] = field(default_factory=dict)
    wraps: dict[fx.Node, Wrap] = field(default_factory=dict)
    opaque: list[Opaque] = field(default_factory=list)
    rules: dict[str, str] = field(default_factory=dict)
    regions: dict[fx.Node, Region] = field(default_factory=dict)
    conditions: list[Condition] = field(default_factory=list)

    def run(self, graph: fx.Graph) -> None:
        self.find_regions(graph)
        for node in graph.nodes:
            self.maps[node] = self.visit(node)

    def find_regions(self, graph: fx.Graph) -> None:
        """Find what of a graph is wrapped as one, if anything may be."""
        if self.full:
            self.regions |= regions(graph, self.captured.modules, self.sources)

    def visit(self, node: fx.Node) -> Any:
        known = info(node)
        value = known.value
        if node in self.regions:
            self.rules[node.name] = "region"
            return self.leave(self.regions[node]) if node is self.regions[node].exit else map_like(value)
        if node.op == "placeholder":
            return map_like(value)
        if node.op == "output":
            for operand in operands_in(self.convert(node.args)):
                self.system.pin(operand.map, Origin(node.name, "it is an output of the network"))
            return None
        if node.op == "get_attr":
            if node.target in self.captured.metas and carries(value):
                if known.is_aliased:
                    operand = self.parameters.operand(node.target)
                    self.parameters.pin(operand, Origin(node.name, "the network writes to it"))
                return _Ref(node.target)
            if isinstance(value, Tensor) and carries(value) and value.layout is torch.strided and not value.any():
                return structural_zeros(value.ndim)  # the first state of a recurrent network, say
            return IDENTITY if isinstance(value, Tensor) else None
        if node.target in GUARDS or node.target is switch:
            return None
        maker = self.captured.modules.get(str(node.target)) if node.op == "call_module" else node.target
        if isinstance(maker, (type, Assemble)) and maker not in RULES:
            made = maker.made if isinstance(maker, Assemble) else maker.__name__
            for operand in operands_in((self.convert(node.args), self.convert(node.kwargs))):
                self.parameters.pin(operand, Origin(node.name, f"it is put into a {made}"))
            return map_like(value)
        given = node.args
        source = given[0] if given else None
        if node.target in (operator.getitem, getattr) and isinstance(source, fx.Node):
            held = info(source).value
            if not isinstance(held, Tensor):
                return part_of(held, self.maps[source], given[1], value)
        leaves = leaves_of(value)
        if not any(isinstance(x, Tensor) for x in leaves):
            if not operands_in((self.convert(node.args), self.convert(node.kwargs))):
                return map_like(value)
            if known.has_effect:
                return self.give_up(node, "it may write to its inputs")
            if not all(isinstance(x, _PLAIN) for x in leaves):  # an object may hide tensors
                return self.give_up(node, f"it returns a {type(value).__name__}")
            return map_like(value)
        found = self.apply(node, value)
        if known.is_aliased:
            for leaf in maps_in(found):
                self.system.pin(leaf, Origin(node.name, "it is written in place and read through another view"))
        return found

    def apply(self, node: fx.Node, value: Any) -> Any:
        """Look up the node's rule and run it as a transaction."""
        module = self.captured.modules.get(str(node.target)) if node.op == "call_module" else None
        mark = self.mark()
        try:
            if info(node).trust and any(isinstance(x, Tensor) and not x.numel() for x in leaves_of(value)):
                return self.give_up(node, "the run decides its size, and the example inputs leave nothing of it")
            if has_more(value, self.sizing.current(node)):
                return self.give_up(node, "other inputs give it elements, of which the example inputs leave none")
            if module is not None:
                path = str(node.target)
                if path in self.captured.opaque:
                    return self.give_up(node, f"it could not be traced: {self.captured.opaque[path]}")
                if changes_gradients(module):
                    return self.give_up(node, "it has backward hooks, which may change its gradients")
                if hooked(module):
                    return self.give_up(node, "it has forward hooks, which may change its values")
            if node in self.captured.branches:
                return self.branches(node, value, self.captured.branches[node])
            args, kwargs = self.convert(node.args), self.convert(node.kwargs)
            if isinstance(module, Given):  # its rule finds its tensors among the arguments; counters have no CoB
                module = module.layer
                kwargs = {k: v for k, v in kwargs.items() if not isinstance(v, Operand) or carries(v.value)}
            operands = operands_in((args, kwargs))
            constant = operands and not any(operand.moves for operand in operands)
            if constant and (module is None or not is_stateful(module)):
                return map_like(value)
            full = self.full and all(map(is_dense, (value, *operands))) and not self.is_fixed(node)
            call = Call(node, value, args, kwargs, module, self, full, self.norm_stats)
            if node.target in _OF_LISTS and isinstance(value, (list, tuple)):
                return self.give_up(node, "how many items there are is not known")
            found = lookup(node.op, module if module is not None else node.target)
            if found is None:
                return self.give_up(node, "no rule knows this operation")
            self.rules[node.name] = found.name
            told = found.shape is not None
            folds = folded.through(call, found.along if told else None, operands)
            positional, named = bound(found, args, kwargs, module, self.own(node))
            result = fitted(value, found.apply(call, operands, positional, named))
            result = at_all_sizes(self.system, self.sizing, node, result, self.sizing.current(node), told, folds)
            if call.wrapping is not None:
                self.wraps[node] = call.wrapping
            return result
        except Decline as reason:
            self.undo(mark)
            return self.give_up(node, str(reason))
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            if self.strict:
                raise RuleError(f"the rule of {node.name} ({_target_name(node)}) fails: {error}") from error
            self.undo(mark)
            return self.give_up(node, f"its rule failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}")

    def own(self, node: fx.Node) -> Callable[[str], Operand]:
        """A parameter or buffer of the module that a node calls, by its name there."""
        return lambda name: self.parameters.operand(f"{node.target}.{name}")

    def leave(self, region: Region) -> CobMap:
        """The map of what comes out of a region, in which the values are the original's."""
        node = region.exit
        operand = self.convert(region.entry)
        for axis, _ in operand.folds:
            operand.unfold(self.system, axis, Origin(node.name, "how many positions there are is not known"))
        cob = operand.map.settled()
        if region.has_poles:
            why = "its pole has the sign of the zero, and a sum that cancels is +0 under any CoB"
            self.system.require_positive(cob, Origin(node.name, why))
        if cob.factors:
            self.wraps[node] = Wrap(cob, None if region.is_norm else cob, region=(region.entry, region.inside))
        return IDENTITY if region.is_norm else cob

    def sizes_of(self, node: fx.Node) -> tuple[Extent, ...]:
        return self.sizing.current(node).sizes  # type: ignore[no-any-return]

    def settled(self, size: Extent) -> Extent:
        return self.sizing.sizes.settled(size)  # type: ignore[no-any-return]

    def example(self, size: Extent) -> int:
        return self.sizing.sizes.value(size)  # type: ignore[no-any-return]

    def is_fixed(self, node: fx.Node) -> bool:
        return self.sources.of(node) is Source.FIXED

    # -- arguments -------------------------------------------------------------------------------------

    def convert(self, x: Any) -> Any:
        """A node's argument structure: operands for tensors, plain values for the rest."""
        return of_nodes(x, self._seen)

    def _seen(self, node: fx.Node) -> Any:
        return self._view(info(node).value, self.maps.get(node), self.sizing.current(node))

    def _view(self, value: Any, cob: Any, sized: Any) -> Any:
        """A value with its map as a rule sees it: neither numbers nor indices that other inputs change are known."""
        if isinstance(value, Tensor):
            if isinstance(cob, _Ref):
                return self.parameters.operand(cob.name)
            cob = cob if cob is not None else IDENTITY
            if type(sized) is not Sized:
                return Operand(value, cob)
            return Operand(value.to("meta") if sized.uncertain else value, cob, sizes=sized.sizes)
        if isinstance(value, (tuple, list)):
            parts = sized if isinstance(sized, list) else [None] * len(value)
            return [self._view(v, None if cob is None else cob[i], parts[i]) for i, v in enumerate(value)]
        if isinstance(value, dict):
            held = sized if isinstance(sized, dict) else {}
            return {k: self._view(v, None if cob is None else cob[k], held.get(k)) for k, v in value.items()}
        return Unknown(value, sized) if type(sized) is Size else value

    # -- soundness -------------------------------------------------------------------------------------

    def give_up(self, node: fx.Node, why: str) -> Any:
        """Pin everything around a node."""
        origin = Origin(node.name, f"'{_target_name(node)}': {why}")
        for operand in operands_in((self.convert(node.args), self.convert(node.kwargs))):
            self.parameters.pin(operand, origin)
        for operand in self.parameters.under(str(node.target)) if node.op == "call_module" else ():
            self.parameters.pin(operand, origin)
        self.opaque.append(Opaque(node.name, info(node).path, origin.why))
        return map_like(info(node).value)

    def branches(self, node: fx.Node, value: Any, graphs: tuple[fx.Graph, ...]) -> Any:
        """A call that is kept whole: its map must be right in each of its graphs.

        Of one from a tensor to a tensor an operation inside may need another form: then the whole call is given one.
        """
        args = self.convert(node.args)
        operands = operands_in((args, self.convert(node.kwargs)))
        for operand in operands:
            for axis, _ in operand.folds:
                operand.unfold(self.system, axis, Origin(node.name, "how many positions there are is not known"))
        simple = isinstance(value, Tensor) and len(operands) == 1 and isinstance(next(iter(args), None), Operand)
        whole = self.full and simple
        inner = self.inside(whole)  # one system for both
        result = call_bodies.interpret(inner, node, value, operands, graphs)
        backward = self.captured.backwards.get(node)
        if backward is not None and not whole:
            call_bodies.obey(self.inside(False), node, backward, operands, value, result)
        elif inner.wraps or backward is not None:  # in tau f(x / tau), f's backward sees what it sees in the original
            self.wraps[node] = Wrap(self.convert(node.args[0]).map, result)
        self.rules[node.name] = "inside"
        return result

    def inside(self, full: bool) -> Interpreter:
        """An interpreter of the graphs inside a call, in the same system."""
        return replace(self, full=full, maps={}, wraps={}, opaque=[], rules={})

    def within(self, graph: fx.Graph, operands: Sequence[Operand]) -> Any:
        """The output's maps of a graph of a call's inside, for given inputs."""
        nodes = list(graph.nodes)
        given = [node for node in nodes if node.op == "placeholder" and isinstance(info(node).value, Tensor)]
        if len(given) != len(operands):
            raise Decline("it takes tensors out of an object")
        for node, operand in zip(given, operands, strict=True):
            self.maps[node] = operand.map if operand.name is None else _Ref(operand.name)
        self.find_regions(graph)
        for node in nodes[:-1]:
            if node not in self.maps:
                self.maps[node] = self.visit(node)
        return maps_of(self.convert(nodes[-1].args[0]))

    def mark(self) -> tuple[int, ...]:
        return *self.system.mark(), self.parameters.mark(), len(self.opaque), len(self.conditions)

    def undo(self, mark: tuple[int, ...]) -> None:
        *system, parameters, opaque, conditions = mark
        self.system.undo(system)
        self.parameters.undo(parameters)
        del self.opaque[opaque:], self.conditions[conditions:]


_OF_LISTS = (operator.add, operator.mul)  # which join and repeat them; a node does so where other inputs decide that
# Facts about a tensor, which do not depend on its values: sizes, types, devices.
_PLAIN = (int, float, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


@dataclass(frozen=True, slots=True)
class _Ref:
    """The map of a `get_attr` node: decided by the parameter's first use."""

    name: str


def _target_name(node: fx.Node) -> str:
    target: Callable[..., Any] | str = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
