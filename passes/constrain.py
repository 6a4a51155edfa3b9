"""Constrain: graph -> CoB maps and a system of constraints, by abstract interpretation.

The interpreter visits every node once, hands the node's arguments to the rule of its operation (`rules/`), and
keeps the map that comes back. Soundness: an operation that no rule knows, or that a rule declines, pins all its
inputs and outputs, and is reported with the reason.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from fxteleport.errors import Decline
from fxteleport.passes.call import Call, Operand, Unknown, Wrap, carries, fits, is_dense
from fxteleport.passes.capture import Captured
from fxteleport.passes.conditions import Condition
from fxteleport.passes.evaluate import leaves_of
from fxteleport.passes.grad_mode import switch
from fxteleport.passes.guards import GUARDS
from fxteleport.passes.leaves import hooked, is_stateful
from fxteleport.passes.maps import IDENTITY, ONE, CobMap, structural_zeros
from fxteleport.passes.objects import PLAIN, Assemble
from fxteleport.passes.rules import RULES, Rule, lookup
from fxteleport.passes.structures import map_like, maps_in, maps_of, operands_in, pairs_of, part_of
from fxteleport.passes.system import Origin, System


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
    still = {*unsaved(captured), *(captured.overlapping if mode == "weights" else ())}
    state = Interpreter(captured, mode == "full", norm_stats, tensors=dict.fromkeys(still, IDENTITY))
    state.run(captured.graph)
    conditions = tuple(dict.fromkeys(state.conditions))
    return Constrained(state.system, state.maps, state.tensors, state.wraps, state.opaque, state.rules, conditions)


def unsaved(captured: Captured) -> Iterator[str]:
    """Buffers outside the state dict, which no checkpoint would carry: they stay as the model makes them."""
    for path, module in captured.parts.items():
        for name in getattr(module, "_non_persistent_buffers_set", ()):
            whole = f"{path}.{name}" if path else name
            if whole in captured.canonical:
                yield captured.canonical[whole]


@dataclass
class Interpreter:
    """The state of one run: maps so far, and a journal that undoes a rule which declines half way."""

    captured: Captured
    full: bool
    norm_stats: str
    system: System = field(default_factory=System)
    maps: dict[fx.Node, Any] = field(default_factory=dict)
    tensors: dict[str, CobMap] = field(default_factory=dict)
    wraps: dict[fx.Node, Wrap] = field(default_factory=dict)
    opaque: list[Opaque] = field(default_factory=list)
    rules: dict[str, str] = field(default_factory=dict)
    bound: list[str] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)

    def run(self, graph: fx.Graph) -> None:
        for node in graph.nodes:
            self.maps[node] = self.visit(node)

    def visit(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if node.op == "placeholder":
            return map_like(value)
        if node.op == "output":
            for operand in operands_in(self.convert(node.args)):
                self.system.pin(operand.map, Origin(node.name, "it is an output of the network"))
            return None
        if node.op == "get_attr":
            if node.target in self.captured.metas and carries(value):
                if node.meta.get("aliased"):
                    self.pin_operand(self.tensor(node.target), Origin(node.name, "the network writes to it"))
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
                self.pin_operand(operand, Origin(node.name, f"it is put into a {made}"))
            return map_like(value)
        source = node.args[0] if node.args else None
        if node.target in (operator.getitem, getattr) and isinstance(source, fx.Node):
            held = source.meta["val"]
            if not isinstance(held, Tensor):
                return part_of(held, self.maps[source], node.args[1], value)
        leaves = leaves_of(value)
        if not any(isinstance(x, Tensor) for x in leaves):
            if not operands_in((self.convert(node.args), self.convert(node.kwargs))):
                return map_like(value)
            if node.meta.get("keep"):
                return self.give_up(node, "it may write to its inputs")
            if not all(isinstance(x, _PLAIN) for x in leaves):  # an object may hide tensors
                return self.give_up(node, f"it returns a {type(value).__name__}")
            return map_like(value)
        found = self.apply(node, value)
        if node.meta.get("aliased"):
            for leaf in maps_in(found):
                self.system.pin(leaf, Origin(node.name, "it is written in place and read through another view"))
        return found

    def apply(self, node: fx.Node, value: Any) -> Any:
        """Look up the node's rule and run it as a transaction."""
        module = self.captured.modules.get(str(node.target)) if node.op == "call_module" else None
        mark = self.mark()
        try:
            if "trust" in node.meta and any(isinstance(x, Tensor) and not x.numel() for x in leaves_of(value)):
                return self.give_up(node, "the run decides its size, and the example inputs leave nothing of it")
            if module is not None:
                path = str(node.target)
                if path in self.captured.opaque:
                    return self.give_up(node, f"it could not be traced: {self.captured.opaque[path]}")
                if hooked(module):
                    return self.give_up(node, "it has forward hooks, which may change its values")
            if node in self.captured.branches:
                return self.branches(node, value, self.captured.branches[node])
            args, kwargs = self.convert(node.args), self.convert(node.kwargs)
            operands = operands_in((args, kwargs))
            constant = operands and not any(map(self._moves, operands))
            if constant and (module is None or not is_stateful(module)):
                return map_like(value)
            full = self.full and all(map(is_dense, (value, *operands)))
            call = Call(node, value, args, kwargs, module, self, full, self.norm_stats)
            found = lookup(node.op, module if module is not None else node.target)
            if found is None:
                return self.give_up(node, "no rule knows this operation")
            self.rules[node.name] = found.name
            for operand in operands:
                operand.seen = False
            positional, named = self.arguments(call, found)
            result = found.fn(call, *positional, **named)
            if any(not operand.seen and self._moves(operand) for operand in operands):
                raise Decline("its rule does not look at one of its tensors")
            result = self.checked(value, result)
            if call.wrapping is not None:
                self.wraps[node] = call.wrapping
            return result
        except Decline as reason:
            self.undo(mark)
            return self.give_up(node, str(reason))
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            self.undo(mark)
            return self.give_up(node, f"its rule failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}")

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

    def arguments(self, call: Call, rule: Rule) -> tuple[list[Any], dict[str, Any]]:
        """The call's arguments in the order of the rule's parameters; a module's settings by their names.

        Those that the rule does not name come by keyword, where it takes any.
        """
        given, kwargs = call.args, dict(call.kwargs)
        out: list[Any] = []
        for i, (name, default) in enumerate(rule.parameters):
            if name[0] == "*":
                out += given[i:]
                given = given[:i]
            elif i < len(given):
                out.append(given[i])
            elif kwargs and (alias := next((n for n in (name, *_ALIASES.get(name, ())) if n in kwargs), None)):
                out.append(kwargs.pop(alias))
            elif call.module is not None and (value := getattr(call.module, name, _ABSENT)) is not _ABSENT:
                out.append(self.tensor(f"{call.node.target}.{name}") if isinstance(value, Tensor) else value)
            elif default is not rule.REQUIRED:
                out.append(default)
            else:
                raise Decline(f"its argument '{name}' is missing")
        known = {name for name, _ in rule.parameters}
        unnamed = {k: v for k, v in kwargs.items() if k not in known}
        if len(given) > len(rule.parameters) or (unnamed and not rule.open):
            raise Decline(f"its rule does not know the arguments {[*unnamed, *given[len(rule.parameters) :]]}")
        return out, unnamed

    def tensor(self, name: str) -> Operand:
        """A parameter or buffer as an operand."""
        name = self.captured.canonical[name]
        return Operand(self.captured.metas[name], self.tensors.get(name), name, self)

    # -- parameters ------------------------------------------------------------------------------------

    def bind(self, name: str | None, cob: CobMap) -> None:
        assert name is not None
        self.tensors[name] = cob
        self.bound.append(name)

    def own_map(self, name: str | None) -> CobMap:
        """The map of a parameter used freely: one fresh factor an axis (buffers are constants).

        A product of factors repeats a common scale, so all but the last axis start at ONE.
        """
        assert name is not None
        if name in self.tensors:
            return self.tensors[name]
        value = self.captured.metas[name]
        factors = []
        if name in self.parameters:
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
    def parameters(self) -> frozenset[str]:
        parts = self.captured.parts.items()
        return frozenset(f"{path}.{name}" if path else name for path, part in parts for name in part._parameters)

    # -- arguments -------------------------------------------------------------------------------------

    def convert(self, x: Any) -> Any:
        """A node's argument structure: operands for tensors, plain values for the rest."""
        kind = type(x)
        if kind is fx.Node:
            return self._view(x.meta.get("val"), self.maps.get(x), "trust" in x.meta)
        if kind in PLAIN:
            return x
        if kind is slice:
            return slice(self.convert(x.start), self.convert(x.stop), self.convert(x.step))
        if issubclass(kind, dict):
            return {k: self.convert(v) for k, v in x.items()}
        if issubclass(kind, tuple):
            return tuple([self.convert(v) for v in x])
        return [self.convert(v) for v in x] if issubclass(kind, list) else x

    def _view(self, value: Any, cob: Any, guessed: bool) -> Any:
        """A value with its map as a rule sees it; of one that is guessed, neither numbers nor indices are known."""
        if isinstance(value, Tensor):
            if isinstance(cob, _Ref):
                return self.tensor(cob.name)
            return Operand(value.to("meta") if guessed else value, cob if cob is not None else IDENTITY)
        if isinstance(value, (tuple, list)):
            return [self._view(v, None if cob is None else cob[i], guessed) for i, v in enumerate(value)]
        if isinstance(value, dict):
            return {k: self._view(v, None if cob is None else cob[k], guessed) for k, v in value.items()}
        return Unknown(value) if guessed and isinstance(value, (int, float)) else value

    def _moves(self, operand: Operand) -> bool:
        return operand.is_unbound or bool(operand.map.factors)

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
        self.opaque.append(Opaque(node.name, str(node.meta.get("path", "")), origin.why))
        return map_like(node.meta.get("val"))

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
        simple = isinstance(value, Tensor) and len(operands) == 1 and isinstance(next(iter(args), None), Operand)
        inner = replace(self, full=self.full and simple, maps={}, wraps={}, opaque=[], rules={})  # one system for both
        outs = [inner.within(graph, operands) for graph in graphs]
        if inner.opaque:
            raise Decline(f"inside it, {inner.opaque[0].why}")
        if any(len(maps_in(out)) != len(maps_in(outs[0])) for out in outs):
            raise Decline("it returns another structure in train mode")
        for other in outs[1:]:
            for a, b in zip(maps_in(outs[0]), maps_in(other), strict=True):
                self.system.same(a, b, Origin(node.name, "it must agree in train and in eval mode"))
        result = self.checked(value, outs[0])
        if inner.wraps:
            self.wraps[node] = Wrap(self.convert(node.args[0]).map, result)
        self.rules[node.name] = "inside"
        return result

    def within(self, graph: fx.Graph, operands: Sequence[Operand]) -> Any:
        """The output's maps of a graph of a call's inside, for given inputs."""
        nodes = list(graph.nodes)
        given = [node for node in nodes if node.op == "placeholder" and isinstance(node.meta["val"], Tensor)]
        if len(given) != len(operands):
            raise Decline("it takes tensors out of an object")
        for node, operand in zip(given, operands, strict=True):
            self.maps[node] = operand.map if operand.name is None else _Ref(operand.name)
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


_ABSENT = object()
# Other names of arguments: numpy's, which torch takes beside its own, and those of operations that share a rule.
_ALIASES = {
    "dim": ("axis",), "keepdim": ("keepdims",), "input": ("x", "a", "x1", "A"), "other": ("x2", "B"),
    "mat1": ("batch1",), "mat2": ("batch2", "other", "vec", "tensor"), "index": ("indices",), "value": ("values",),
}  # fmt: skip
# Facts about a tensor, which do not depend on its values: sizes, types, devices.
_PLAIN = (int, float, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


@dataclass(frozen=True, slots=True)
class _Ref:
    """The map of a `get_attr` node: decided by the parameter's first use."""

    name: str


def _target_name(node: fx.Node) -> str:
    target: Callable[..., Any] | str = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
