"""Caches: tensors that a call takes in a structure and gives back, for the next call to take.

A key that one call computes is multiplied by a query of a later one, so the tensors of a cache may have a CoB if what
is put into it has the same. Each has one map in all graphs of a plan: that of the input, which what goes out must have.
What holds the tensors is an input; they go out where forward leaves them in it, or where a part of the output holds
tensors in the same places. An object is a cache by that; a tuple, a list or a dictionary is one if it is named, for
inputs of other kinds come in these, too.
"""

from __future__ import annotations

import collections
import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.constrain.rule_context import RuleContext
from fxteleport.passes.constrain.sizing import Sizing
from fxteleport.passes.domain.cob_map import IDENTITY, CobMap, single
from fxteleport.passes.domain.constraints import Origin, System
from fxteleport.passes.errors import InputError
from fxteleport.passes.graph.assembly import Assemble
from fxteleport.passes.graph.containers import kind_of, parts
from fxteleport.passes.graph.guards import GUARDS
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.places import place_of, tensors_at
from fxteleport.passes.graph.structure import LEAVING
from fxteleport.passes.rules.operand import Operand, carries
from fxteleport.passes.rules.operands import map_like, maps_of
from fxteleport.passes.rules.registry import RULES

Key = tuple[str, str]  # an input, and a place in it: ("past_key_values", ".layers[0].keys")
Forms = dict[str, set[frozenset[str]]]  # of each input that holds tensors: the places of these, in each graph


@dataclass(frozen=True, slots=True)
class Put:
    """A tensor that goes into a cache.

    Attributes:
        key: what it is for the next call.
        consumer: the node that puts it there; None where an input goes out as it is.
        value: the tensor.
        output: its place in the output, if that is where it goes.
    """

    key: Key
    consumer: fx.Node | None
    value: fx.Node | None
    output: str | None = None


@dataclass(frozen=True)
class Caches:
    """The tensors of the caches of all graphs.

    Attributes:
        maps: of each.
        read: the nodes that are inputs which hold tensors, or parts of them -> what they are.
        given: the nodes that put tensors into caches -> these.
        outputs: of each graph, the places of its output that are caches.
    """

    maps: dict[Key, CobMap] = field(default_factory=dict)
    read: dict[fx.Node, Key] = field(default_factory=dict)
    given: dict[fx.Node, list[Put]] = field(default_factory=dict)
    outputs: dict[fx.Graph, dict[str, Key]] = field(default_factory=dict)

    def map_of(self, node: fx.Node) -> Any:
        """The map of an input that may hold a cache, or of a part of one."""
        return self._within(info(node).value, *self.read[node])

    def _within(self, value: Any, name: str, place: str) -> Any:
        if isinstance(value, Tensor):
            return self.maps.get((name, place), IDENTITY)
        if isinstance(value, dict):
            return {key: self._within(x, name, place + place_of(value, key)) for key, x in value.items()}
        if isinstance(value, (tuple, list)):
            return [self._within(x, name, place + place_of(value, i)) for i, x in enumerate(value)]
        return None

    def put(self, node: fx.Node, convert: Callable[[Any], Any], context: RuleContext) -> list[Any]:
        """Tie what a node puts into caches; returns these nodes, and the one of the input in which they are left."""
        for put in self.given.get(node, ()):
            self.tie(put, convert(put.value), context)
        holder = [node.args[0]] if node.target in LEAVING and node.args[0] in self.read else []
        return [*holder, *(put.value for put in self.given.get(node, ()))]

    def tie(self, put: Put, operand: Operand, context: RuleContext) -> None:
        """What goes into a cache has the CoB with which it comes out of it."""
        cob = self.maps[put.key]
        assert put.consumer is not None
        origin = Origin(put.consumer.name, f"it is a later call's {''.join(put.key)}")
        ((symbols, _),) = cob.factors
        fits = symbols.ndim == operand.rank and all(
            n in (1, m) for n, m in zip(symbols.shape, operand.sizes, strict=True)
        )
        if fits and not operand.is_unbound:
            context.system.same(operand.map, cob, origin)
        else:
            context.parameters.pin(operand, origin)
            context.system.pin(cob, origin)

    def built(self, node: fx.Node, value: Any, convert: Callable[[Any], Any]) -> Any:
        """The map of what a node builds: of a dictionary, say, with caches among what it holds; the rest is pinned."""
        cobs = map_like(value)
        if node in self.given and isinstance(cobs, dict):
            cobs |= {name: maps_of(convert(x)) for name, x in node.kwargs.items() if name in cobs}
        return cobs


def find_caches(captured: Captured, sizing: Sizing, system: System, named: Collection[str] | None) -> Caches:
    """The caches of a captured model, each tensor with a symbol for each position along the axes of known size.

    Args:
        named: the inputs that are caches; None for those that are objects.

    Raises:
        InputError: there are none, or it is not plain which part of an output is which.
    """
    graphs = [_Graph(graph, captured, named) for graph in captured.calls]
    forms: Forms = collections.defaultdict(set)
    for graph in graphs:
        for name, places in graph.inputs.items():
            forms[name].add(places)
    puts = [[*graph.left(), *graph.put_out(forms)] for graph in graphs]
    read = {node: key for graph in graphs for node, key in graph.read.items()}
    readers: dict[Key, list[fx.Node]] = collections.defaultdict(list)
    for node, key in read.items():
        if isinstance(info(node).value, Tensor) and carries(info(node).value):
            readers[key].append(node)
    maps = {}
    for key in dict.fromkeys(put.key for held in puts for put in held if put.value is not None):
        cob = _fresh(readers[key], sizing, system)
        if cob is not None:
            maps[key] = cob
    if not maps:
        raise InputError(
            "there is no cache to teleport: an input that holds tensors, and in which forward leaves others, or with"
            " a part of the output that holds tensors in the same places. Pass one that a call before has filled (a"
            " tuple, a list or a dictionary by name: cached=['past']), or plan with cached='pinned'"
        )
    caches = Caches(maps, read, {}, {})
    for number, (graph, held) in enumerate(zip(graphs, puts, strict=True)):
        known = [put for put in held if put.key in maps]
        if missing := next((name for name, _ in maps if not graph.has(name, known)), None):
            raise InputError(f"call {number} neither takes nor gives what '{missing}' holds: leave it out of the plan")
        graph.settle(caches, known, system)
    return caches


def _fresh(nodes: Sequence[fx.Node], sizing: Sizing, system: System) -> CobMap | None:
    sizes = [sizing.current(node).sizes for node in nodes]
    if len(set(map(len, sizes))) != 1:
        return None
    columns = list(zip(*sizes, strict=True))
    shape = [column[0] if type(column[0]) is int and len(set(column)) == 1 else 1 for column in columns]
    return single(system.fresh(shape, Origin(nodes[0].name, "a cache holds it")))


class _Graph:
    """One graph: what it takes and gives that may be a cache."""

    def __init__(self, graph: fx.Graph, captured: Captured, named: Collection[str] | None) -> None:
        self.graph, self.captured = graph, captured
        self.inputs: dict[str, frozenset[str]] = {}
        self.read: dict[fx.Node, Key] = {}
        for node in graph.find_nodes(op="placeholder"):
            value = info(node).value
            if isinstance(value, Tensor) or not _may_be_cache(str(node.target), value, named):
                continue
            if places := frozenset(place for place, _ in tensors_at(value, carries)):
                self.inputs[str(node.target)] = places
            self.read[node] = (str(node.target), "")
        for node in graph.nodes:
            source = node.args[0] if node.args else None
            if (
                source in self.read
                and node.target in (operator.getitem, getattr)
                and not isinstance(_value(source), Tensor)
            ):
                name, place = self.read[source]
                self.read[node] = (name, place + place_of(_value(source), node.args[1]))

    def has(self, name: str, puts: Sequence[Put]) -> bool:
        """True if it takes or gives the cache that is an input of this name."""
        return name in self.inputs or any(put.key[0] == name for put in puts)

    def left(self) -> Iterator[Put]:
        """What forward leaves in its inputs."""
        for node in self.graph.nodes:
            if node.target in LEAVING and node.args[0] in self.read:
                name, place = self._left_at(node)
                for inner, consumer, value in self._within(node.args[-1], (), node):
                    if consumer is node and self._is_tensor(value):
                        yield Put((name, place + "".join(inner)), node, value)

    def _left_at(self, node: fx.Node) -> Key:
        """The place that is assigned to by a node."""
        name, place = self.read[node.args[0]]  # type: ignore[index]
        return name, f"{place}.{node.args[1]}" if node.target is setattr else place

    def put_out(self, forms: Forms) -> Iterator[Put]:
        """What of the output is a cache."""
        out = self.graph.output_node()
        leaves = list(self._within(out.args[0], (), out))
        whole = [(place, *self.read[x]) for place, _, x in leaves if x in self.read and not self._is_tensor(x)]
        for place, name, inside in whole:
            for inner in {p for form in forms.get(name, ()) for p in form if p.startswith(inside)}:
                yield Put((name, inner), None, None, "".join(place) + inner.removeprefix(inside))
        left = {name for _, name, _ in whole}
        tensors = [leaf for leaf in leaves if self._is_tensor(leaf[2])]
        for start, name in _matched(
            [place for place, _, _ in tensors], {n: f for n, f in forms.items() if n not in left}
        ):
            for place, consumer, value in tensors:
                if place[: len(start)] == start:
                    key = name, "".join(place[len(start) :])
                    yield Put(key, consumer, value, "".join(place))

    def _within(
        self, x: Any, place: tuple[str, ...], consumer: fx.Node
    ) -> Iterator[tuple[tuple[str, ...], fx.Node, fx.Node]]:
        """The nodes that a structure holds, each with its place, and the node that puts it there."""
        if isinstance(x, fx.Node):
            made = self.captured.added.get(str(x.target)) if x.op == "call_module" else None
            if isinstance(made, Assemble):
                yield from self._within(made(*x.args), place, x)
            elif isinstance(x.target, type) and x.target not in RULES and len(x.args) < 2:
                for held in x.args:
                    yield from self._within(held, place, x)
                for name, held in x.kwargs.items():
                    key = f"[{name!r}]" if issubclass(x.target, dict) else f".{name}"
                    yield from self._within(held, (*place, key), x)
            else:
                yield place, consumer, x
        elif kind_of(type(x)) is not None:
            for key, held in parts(x):
                yield from self._within(held, (*place, place_of(x, key)), consumer)
        elif hasattr(x, "__dict__") and not isinstance(x, type):
            for name, held in vars(x).items():
                yield from self._within(held, (*place, f".{name}"), consumer)

    @staticmethod
    def _is_tensor(x: fx.Node) -> bool:
        return carries(_value(x))

    def settle(self, caches: Caches, puts: Sequence[Put], system: System) -> None:
        """Note what goes into the caches, and pin the tensors of which that cannot be said."""
        unclear = set(self._elsewhere())
        for node in self.graph.nodes:
            if node.target in LEAVING and node.args[0] in self.read:
                name, place = self._left_at(node)
                told = {put.key for put in puts if put.consumer is node}
                unclear |= {key for key in caches.maps if key[0] == name and key[1].startswith(place)} - told
        by_node: dict[fx.Node, list[Put]] = collections.defaultdict(list)
        for put in puts:
            if put.consumer is not None:
                by_node[put.consumer].append(put)
        for node, held in by_node.items():
            if _takes_nothing_else(node, held):
                caches.given[node] = held
            else:
                unclear |= {put.key for put in held}
        caches.outputs[self.graph] = {put.output: put.key for put in puts if put.output is not None}
        for key in unclear & caches.maps.keys():
            origin = Origin(self.graph.output_node().name, f"{key[0]}{key[1]} goes elsewhere, too")
            system.pin(caches.maps[key], origin)

    def _elsewhere(self) -> Iterator[Key]:
        """The tensors in what is handed to code that no rule looks into, or put in another place."""
        for node, (name, place) in self.read.items():
            if not isinstance(_value(node), Tensor) and not all(self._is_known(user, node) for user in node.users):
                yield from ((name, place + inner) for inner, _ in tensors_at(_value(node), carries))

    def _is_known(self, user: fx.Node, node: fx.Node) -> bool:
        is_held = isinstance(self.captured.added.get(str(user.target)), Assemble) or isinstance(user.target, type)
        is_holder = user.target in LEAVING and user.args[0] is node and _nodes_in(user.args)[node] == 1
        return user in self.read or user.target in GUARDS or user.op == "output" or is_held or is_holder


def _may_be_cache(name: str, value: Any, named: Collection[str] | None) -> bool:
    return type(value) not in (tuple, list, dict) if named is None else name in named


def _value(node: Any) -> Any:
    return info(node).value


def _nodes_in(x: Any) -> collections.Counter[Any]:
    """The nodes of an argument structure, and how often each is there."""
    found: collections.Counter[Any] = collections.Counter()
    fx.map_arg(x, lambda node: found.update([node]))
    return found


def _takes_nothing_else(node: fx.Node, puts: Sequence[Put]) -> bool:
    """True if all tensors that go into caches here go nowhere else by this node."""
    taken = _nodes_in((node.args, node.kwargs))
    return all(taken[value] == count for value, count in collections.Counter(put.value for put in puts).items())


def _matched(places: Sequence[tuple[str, ...]], forms: Forms) -> Iterator[tuple[tuple[str, ...], str]]:
    """The parts of an output that hold tensors in the places in which an input does: where they begin, and its name.

    Raises:
        InputError: there are more or fewer such parts than inputs like them.
    """
    starts = sorted({place[:n] for place in places for n in range(len(place))}, key=len)
    parts_of: dict[frozenset[str], list[tuple[str, ...]]] = collections.defaultdict(list)
    found: list[tuple[str, ...]] = []
    for start in starts:
        held = frozenset("".join(place[len(start) :]) for place in places if place[: len(start)] == start)
        inside = any(start[: len(other)] == other for other in found)
        if not inside and any(held in known for known in forms.values()):
            found.append(start)
            parts_of[held].append(start)
    for form, parts_like_it in parts_of.items():
        names = [name for name, known in forms.items() if form in known]
        if len(names) != len(parts_like_it):
            raise InputError(
                f"{len(names)} inputs ({', '.join(names)}) hold tensors as {len(parts_like_it)} parts"
                " of the output do: which is which is not plain; put each into an object or a dictionary of its own"
            )
        in_order = sorted(
            parts_like_it, key=lambda start: next(i for i, p in enumerate(places) if p[: len(start)] == start)
        )
        yield from zip(in_order, names, strict=True)
