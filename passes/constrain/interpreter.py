"""Constrain: graph -> CoB maps and a system of constraints, by abstract interpretation.

The interpreter visits every node once, hands the node's arguments to the rule of its operation (`rules/`), and
keeps the map that comes back. Soundness: an operation that no rule knows, or that a rule declines, pins all its
inputs and outputs, and is reported with the reason.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.capture.opaque_leaves import Given
from fxteleport.passes.constrain.dependence import Dependence, Source
from fxteleport.passes.constrain.regions import Region, regions
from fxteleport.passes.constrain.sizing import Sizing
from fxteleport.passes.domain.cob_map import IDENTITY, ONE, CobMap, Parts, single, structural_zeros
from fxteleport.passes.domain.constraints import Origin, System
from fxteleport.passes.domain.size import Extent, Size, product
from fxteleport.passes.errors import Decline
from fxteleport.passes.graph.conditions import Condition
from fxteleport.passes.graph.grad_mode import switch
from fxteleport.passes.graph.guards import GUARDS, expect, expect_data
from fxteleport.passes.graph.leaf_modules import changes_gradients, gradient_hooks, hooked, is_stateful
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.ops import leaves_of
from fxteleport.passes.graph.structure import Assemble
from fxteleport.passes.rules import folds as folded
from fxteleport.passes.rules.call import Call, Operand, Unknown, Wrap, carries, fits, is_dense
from fxteleport.passes.rules.operands import map_like, maps_in, maps_of, of_nodes, operands_in, pairs_of, part_of
from fxteleport.passes.rules.registry import RULES, bound, lookup
from fxteleport.passes.rules.shape_functions import Sized


@dataclass(frozen=True, slots=True)
class Opaque:
    """A node that no rule knows, with the reason."""

    node: str
    path: str
    why: str


@dataclass(frozen=True)
class Constrained:
    """What the constraint pass found.

    Attributes:
        system: symbols and constraints.
        maps: node -> its CobMap (or the tuple, list... of them, None where there is no tensor).
        tensors: canonical parameter or buffer name -> its CobMap.
        wraps: nodes that need another operation.
        opaque: nodes that no rule knows.
        rules: node name -> name of the rule that was applied.
        conditions: what the rules rest on: a number that one needed to know, a mode.
    """

    system: System
    maps: dict[fx.Node, Any]
    tensors: dict[str, CobMap]
    wraps: dict[fx.Node, Wrap]
    opaque: list[Opaque]
    rules: dict[str, str]
    conditions: tuple[Condition, ...] = ()


def constrain(captured: Captured, mode: str = "full", norm_stats: str = "fixed") -> Constrained:
    """Find the maps and the constraints of a captured graph."""
    still = {*unsaved(captured), *_with_hooks(captured), *captured.reached_names}
    if mode == "weights":
        still |= captured.overlapping | captured.named | captured.held  # of a copy, code may hold another
    sizing, dependence = Sizing(captured), Dependence(parameters_of(captured))
    weighty = frozenset(path for path, m in captured.modules.items() if next(m.parameters(), None) is not None)
    for graph in captured.graphs:
        sizing.run(graph)
        dependence.add(graph, weighty)
    state = Interpreter(
        captured, sizing, dependence, mode == "full", norm_stats, tensors=dict.fromkeys(still, IDENTITY)
    )
    for graph in captured.graphs:
        state.run(graph)
    conditions = tuple(dict.fromkeys(state.conditions))
    return Constrained(state.system, state.maps, state.tensors, state.wraps, state.opaque, state.rules, conditions)


def is_table(buffer: Tensor | None) -> bool:
    """True for a buffer with more than one axis."""
    return buffer is not None and sum(n > 1 for n in buffer.shape) > 1


def parameters_of(captured: Captured) -> frozenset[str]:
    """The names of the model's parameters."""
    parts = captured.parts.items()
    return frozenset(f"{path}.{name}" if path else name for path, part in parts for name in part._parameters)


def unsaved(captured: Captured) -> Iterator[str]:
    """Buffers outside the state dict, which no checkpoint would carry: they stay as the model makes them."""
    for path, module in captured.parts.items():
        for name in getattr(module, "_non_persistent_buffers_set", ()):
            whole = f"{path}.{name}" if path else name
            if whole in captured.canonical:
                yield captured.canonical[whole]


def _with_hooks(captured: Captured) -> Iterator[str]:
    """Parameters whose gradients a hook may change."""
    for path, module in captured.parts.items():
        for name, parameter in module._parameters.items():
            if parameter is not None and any(gradient_hooks(parameter)):
                yield captured.canonical[f"{path}.{name}" if path else name]


@dataclass
class Interpreter:
    """The state of one run: maps so far, and a journal that undoes a rule which declines half way."""

    captured: Captured
    sizing: Sizing
    dependence: Dependence
    full: bool
    norm_stats: str
    system: System = field(default_factory=System)
    maps: dict[fx.Node, Any] = field(default_factory=dict)
    tensors: dict[str, CobMap] = field(default_factory=dict)
    wraps: dict[fx.Node, Wrap] = field(default_factory=dict)
    opaque: list[Opaque] = field(default_factory=list)
    rules: dict[str, str] = field(default_factory=dict)
    bound: list[str] = field(default_factory=list)
    regions: dict[fx.Node, Region] = field(default_factory=dict)
    conditions: list[Condition] = field(default_factory=list)

    def run(self, graph: fx.Graph) -> None:
        self.find_regions(graph)
        for node in graph.nodes:
            self.maps[node] = self.visit(node)

    def find_regions(self, graph: fx.Graph) -> None:
        """Find what of a graph is wrapped as one, if anything may be."""
        if self.full:
            self.regions |= regions(graph, self.captured.modules, self.dependence)

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
                    self.pin_operand(self.tensor(node.target), Origin(node.name, "the network writes to it"))
                return _Ref(node.target)
            if isinstance(value, Tensor) and carries(value) and value.layout is torch.strided and not value.any():
                return structural_zeros(value.ndim)  # the first state of a recurrent network, say
            return IDENTITY if isinstance(value, Tensor) else None
        if node.target in (expect, expect_data):
            for operand in operands_in(self.convert(node.args)):
                self.pin_operand(operand, Origin(node.name, "its value decides what the network computes"))
        if node.target in GUARDS or node.target is switch:
            return None
        maker = self.captured.modules.get(str(node.target)) if node.op == "call_module" else node.target
        if isinstance(maker, (type, Assemble)) and maker not in RULES:
            made = maker.made if isinstance(maker, Assemble) else maker.__name__
            for operand in operands_in((self.convert(node.args), self.convert(node.kwargs))):
                self.pin_operand(operand, Origin(node.name, f"it is put into a {made}"))
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
            if self.has_more(value, self.sizing.current(node)):
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
            found = lookup(node.op, module if module is not None else node.target)
            if found is None:
                return self.give_up(node, "no rule knows this operation")
            self.rules[node.name] = found.name
            told = found.shape is not None
            folds = folded.through(call, found.along if told else None, operands)
            positional, named = bound(found, args, kwargs, module, lambda name: self.tensor(f"{node.target}.{name}"))
            result = found.apply(call, operands, positional, named)
            result = self.still(node, self.checked(value, result), self.sizing.current(node), told, folds)
            if call.wrapping is not None:
                self.wraps[node] = call.wrapping
            return result
        except Decline as reason:
            self.undo(mark)
            return self.give_up(node, str(reason))
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            self.undo(mark)
            return self.give_up(node, f"its rule failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}")

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

    def has_more(self, value: Any, sized: Any) -> bool:
        """True for an empty result (or one of several) along an axis that other inputs may make longer."""
        if isinstance(value, Tensor):
            sizes = sized.sizes if type(sized) is Sized else ()
            return not value.numel() and any(
                n == 0 and type(m) is Size for n, m in zip(value.shape, sizes, strict=False)
            )
        pairs = zip(value, sized, strict=False) if isinstance(value, (tuple, list)) and isinstance(sized, list) else ()
        return any(self.has_more(*pair) for pair in pairs)

    def checked(self, value: Any, result: Any) -> Any:
        """The maps of a value, which they must fit."""
        if isinstance(result, CobMap) and not isinstance(value, Tensor):  # one map for several tensors
            if result.factors:
                raise Decline("its rule does not know this form of the call")
            return map_like(value)
        for part, cob in pairs_of(value, result):
            if cob.factors and not carries(part):
                raise Decline("its result is of a type without fractions")
            if cob.factors and not fits(cob, part.shape):
                raise Decline("its rule does not know this form of the call")
        return result

    def still(self, node: fx.Node, result: Any, sized: Any, told: bool, folds: Mapping[int, Parts]) -> Any:
        """Maps that do not vary along axes whose sizes other inputs change, but for folds: no map would fit those.

        An operation without a shape function moves nothing: where its map varies, what went in varied along a known
        axis, or a weight does, and so the axis is known. Not so where zeros come in, which differ along any axis.
        """
        if isinstance(result, CobMap):
            if not result.factors or type(sized) is not Sized:
                return result
            unknown = [i for i, n in enumerate(sized.sizes) if type(n) is Size and result.varies(i)]
            if not told and not result.zeros:
                for i in unknown:
                    self.sizing.sizes.insist(sized.sizes[i], sized.value.shape[i])
                return result
            if unknown or result.folds:
                return self.unvarying(node, result, sized, unknown, dict(result.folds) or folds)
            return result
        if isinstance(result, dict) and isinstance(sized, dict):
            return {k: self.still(node, cob, sized.get(k), told, folds) for k, cob in result.items()}
        if isinstance(result, (list, tuple)) and isinstance(sized, list):
            return [self.still(node, cob, part, told, folds) for cob, part in zip(result, sized, strict=False)]
        return result

    def sizes_of(self, node: fx.Node) -> tuple[Extent, ...]:
        return self.sizing.current(node).sizes  # type: ignore[no-any-return]

    def settled(self, size: Extent) -> Extent:
        return self.sizing.sizes.settled(size)  # type: ignore[no-any-return]

    def example(self, size: Extent) -> int:
        return self.sizing.sizes.value(size)  # type: ignore[no-any-return]

    def has_tensor(self, name: str) -> bool:
        return name in self.captured.metas

    def is_fixed(self, node: fx.Node) -> bool:
        return self.dependence.of(node) is Source.FIXED

    def unvarying(
        self, node: fx.Node, cob: CobMap, sized: Sized, unknown: Sequence[int], folds: Mapping[int, Parts]
    ) -> CobMap:
        """A map with one CoB along axes of unknown sizes, or along the unknown parts of their folds."""
        sizes, origin = self.sizing.sizes, Origin(node.name, "other inputs have more or fewer of these positions")
        extents = {i: sizes.settled(sized.sizes[i]) for i in unknown}
        axes = [i for i, n in extents.items() if type(n) is Size]
        held = {i: folds[i] for i in axes if i in folds and sizes.settled(product(folds[i])) == extents[i]}
        cob = self.system.constant(cob, [i for i in axes if i not in held], origin)
        for i, parts in held.items():
            shape = tuple(sized.value.shape)
            cob = folded.kept(self.system, cob, shape, i, parts, [sizes.value(n) for n in parts], origin)
        return CobMap(cob.factors, cob.zeros, tuple((i, parts) for i, parts in held.items() if cob.varies(i)))

    def tensor(self, name: str) -> Operand:
        """A parameter or buffer as an operand."""
        name = self.captured.canonical[name]
        return Operand(self.captured.metas[name], self.tensors.get(name), name, self)

    # -- parameters ------------------------------------------------------------------------------------

    def is_bound(self, name: str | None) -> bool:
        return name in self.tensors

    def bind(self, name: str | None, cob: CobMap) -> None:
        assert name is not None
        self.tensors[name] = cob
        self.bound.append(name)

    def own_map(self, name: str | None) -> CobMap:
        """The map of a parameter or buffer used freely: one fresh factor an axis, but for buffers that are constants.

        A product of factors repeats a common scale, so all but the last axis start at ONE.
        """
        assert name is not None
        if name in self.tensors:
            return self.tensors[name]
        value = self.captured.metas[name]
        factors = []
        if carries(value) and value.layout is torch.strided and name not in self.constants:
            axes = [i for i, n in enumerate(value.shape) if n > 1] or ([value.ndim - 1] if value.ndim else [])
            for axis in axes:
                n = value.shape[axis]
                origin = Origin(name, f"axis {axis}")
                shape = [n if i == axis else 1 for i in range(value.ndim)]
                if axis == axes[-1]:
                    symbols = self.system.fresh(shape, origin)
                else:
                    rest = self.system.fresh((n - 1,), origin)
                    symbols = torch.cat([rest.new_full((1,), ONE), rest]).view(shape)
                factors.append((symbols, 1))
            if not axes:
                factors.append((self.system.fresh((), Origin(name, "scalar")), 1))
        self.bind(name, CobMap(tuple(factors)))
        return self.tensors[name]

    @functools.cached_property
    def constants(self) -> frozenset[str]:
        """The buffers that no freedom of their own is given."""
        tables = {name for name in self.dependence.used if is_table(self.captured.metas.get(name))}
        named = self.captured.canonical
        return frozenset(named[name] for name in self.dependence.shaping | tables if name in named)

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
                return self.tensor(cob.name)
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
            self.pin_operand(operand, origin)
        if node.op == "call_module":
            prefix = f"{node.target}."
            for name in self.captured.metas:
                if name.startswith(prefix):
                    self.pin_operand(self.tensor(name), origin)
        self.opaque.append(Opaque(node.name, info(node).path, origin.why))
        return map_like(info(node).value)

    def pin_operand(self, operand: Operand, origin: Origin) -> None:
        if operand.is_unbound:
            self.bind(operand.name, IDENTITY)
        else:
            self.system.pin(operand.map, origin)

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
        inner = replace(self, full=self.full and simple, maps={}, wraps={}, opaque=[], rules={})  # one system for both
        outs = [inner.within(graph, operands) for graph in graphs]
        if inner.opaque:
            raise Decline(f"inside it, {inner.opaque[0].why}")
        if any(len(maps_in(out)) != len(maps_in(outs[0])) for out in outs):
            raise Decline("it returns another structure in train mode")
        origin = Origin(node.name, "it must agree in train and in eval mode")
        result = self.checked(value, pytree.tree_map(lambda *cobs: self.agreed(cobs, origin), *outs))
        backward = self.captured.backwards.get(node)
        if backward is not None and not (self.full and simple):
            self.obey(node, backward, operands, value, result)
        elif inner.wraps or backward is not None:  # in tau f(x / tau), f's backward sees what it sees in the original
            self.wraps[node] = Wrap(self.convert(node.args[0]).map, result)
        self.rules[node.name] = "inside"
        return result

    def agreed(self, cobs: Sequence[CobMap | None], origin: Origin) -> CobMap | None:
        """The one map of a value that several graphs may give; what is zero in one of them need not be in another."""
        known = [cob for cob in cobs if cob is not None]
        whole = next((cob for cob in known if not cob.zeros), None)
        if known and whole is None:
            shape = torch.broadcast_shapes(*(s.shape for cob in known for s, _ in cob.factors))
            whole = single(self.system.fresh(shape, origin))
        for cob in known:
            self.system.same(whole, cob, origin)  # type: ignore[arg-type]
        return whole

    def obey(
        self, node: fx.Node, backward: fx.Graph | str, operands: Sequence[Operand], value: Any, result: Any
    ) -> None:
        """The backward of a custom function, to which the gradients come in the inverse CoB, must return them so."""
        if isinstance(backward, str):
            raise Decline(f"its backward could not be traced: {backward}")
        inner = replace(self, full=False, maps={}, wraps={}, opaque=[], rules={})
        gradients = [Operand(v, IDENTITY / cob.settled()) for v, cob in pairs_of(value, result)]
        found = inner.within(backward, [*operands, *gradients])
        if inner.opaque:
            raise Decline(f"inside its backward, {inner.opaque[0].why}")
        for operand, cob in zip(operands, found, strict=True):
            if cob is not None:
                self.system.same(cob, IDENTITY / operand.map, Origin(node.name, "its backward"))

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
        return *self.system.mark(), len(self.bound), len(self.opaque), len(self.conditions)

    def undo(self, mark: tuple[int, ...]) -> None:
        *system, bound, opaque, conditions = mark
        self.system.undo(system)
        for name in self.bound[bound:]:
            self.tensors.pop(name, None)
        del self.bound[bound:], self.opaque[opaque:], self.conditions[conditions:]


# Facts about a tensor, which do not depend on its values: sizes, types, devices.
_PLAIN = (int, float, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


@dataclass(frozen=True, slots=True)
class _Ref:
    """The map of a `get_attr` node: decided by the parameter's first use."""

    name: str


def _target_name(node: fx.Node) -> str:
    target: Callable[..., Any] | str = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
