"""Wraps: the nodes of a network that may be wrapped, and adding the wraps of one CoB.

Where a wrap goes, its name, and the shape of its CoB depend on the plan alone. Which wraps a network has depends on its
CoB: a wrap that changes nothing is left out. So two networks of one plan differ in the tensors of their state dicts
only, and loading another's state dict adds the wraps that its keys name.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.graph.node_info import NodeInfo, describe, info, update
from fxteleport.passes.rewrite.own_epsilon import WITH_OWN_EPSILON, OwnEpsilonCall, OwnEpsilonNorm, with_own_epsilon
from fxteleport.passes.rewrite.sides import Side, Sides
from fxteleport.passes.rewrite.teleported_modules import (
    Operation,
    Rescale,
    Teleported,
    TeleportedActivation,
    is_trivial,
)
from fxteleport.passes.rules.common_factor import CommonFactor, Epsilon


@dataclass(frozen=True, slots=True)
class Place:
    """Where a CoB is stored: the name and class of its module in the network, and its shape."""

    name: str
    kind: type[Teleported]
    shape: torch.Size

    @property
    def key(self) -> str:
        """Its name in the state dict."""
        return f"{self.name}.{self.kind.buffer}"


@dataclass(frozen=True, slots=True)
class Slot:
    """How a node of a network is wrapped: as one activation, or between a factor before and one after it.

    Attributes:
        captured: the name of the captured node.
        position: which argument is the input.
        region: for a region that the node ends, the names of its entry and of the nodes in it.
        activation: the place of a `TeleportedActivation`.
        before, after: the places of the `Rescale`s before and after the operation.
        epsilons: for a norm, the epsilons that take a common factor in place of `before`, each with its place. None
            where the norm cannot take one.
    """

    captured: str
    position: int
    region: tuple[str, frozenset[str]] | None = None
    activation: Place | None = None
    before: Place | None = None
    after: Place | None = None
    epsilons: tuple[tuple[Epsilon, Place], ...] | None = None

    @property
    def places(self) -> tuple[Place, ...]:
        """The places in use."""
        own = [place for _, place in self.epsilons or ()]
        return tuple(p for p in (self.activation, self.before, self.after, *own) if p is not None)

    def factor(self, own: Sides, tau: Tensor) -> float | None:
        """The common factor that goes into the norm's epsilons; None where none does."""
        return None if self.epsilons is None else own.factor(tau)


def cobs(slots: Iterable[Slot], sides: Mapping[str, Sides], tau: Tensor, device: torch.device) -> dict[str, Tensor]:
    """The tensor at each place under one CoB, by the names of their modules, without those that change nothing."""
    values: dict[str, Tensor] = {}
    for slot in slots:
        own = sides[slot.captured]
        factor = slot.factor(own, tau)
        if factor is not None and own.before is not None:
            for _, own_place in slot.epsilons or () if factor != 1 else ():
                values[own_place.name] = torch.tensor(factor, dtype=own.before.dtype, device=device)
            continue
        for place, side in ((slot.activation, own.before), (slot.before, own.before), (slot.after, own.after)):
            if place is not None and side is not None:
                value = side.value(tau)
                if not is_trivial(value):
                    values[place.name] = (value.reciprocal() if place is slot.before else value).to(device)
    return values


def factors_inside(slots: Iterable[Slot], sides: Mapping[str, Sides], tau: Tensor) -> dict[str, list[float]]:
    """Node name -> the factors of its results, for nodes in norms that are written by hand and take a common factor."""
    factors: dict[str, list[float]] = {}
    for slot in slots:
        own = sides[slot.captured]
        factor = slot.factor(own, tau)
        if factor is not None and own.common is not None:
            factors |= {name: [factor**d for d in degrees] for name, degrees in own.common.degrees.items()}
    return factors


# -- what a network holds --------------------------------------------------------------------------------


def slots_of(*graphs: fx.Graph) -> Iterator[tuple[fx.Node, Slot]]:
    """The nodes that may be wrapped, with their slots."""
    return ((node, slot) for graph in graphs for node in graph.nodes if (slot := info(node).slot) is not None)


def mark(root: nn.Module, graphs: Iterable[fx.Graph], sides: Mapping[str, Sides]) -> None:
    """Give the nodes of a network without wraps their slots."""
    nodes = [node for graph in graphs for node in graph.nodes]
    calls: dict[str, int] = {}
    for node in nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    taken: set[str] = set()

    def place(node: fx.Node, suffix: str, kind: type[Teleported], side: Side | None) -> Place | None:
        if side is None:
            return None
        path = join(info(node).path, node.name + suffix)
        return Place(_free_name(root, path, taken), kind, side.shape)

    def epsilon_places(node: fx.Node, common: CommonFactor | None) -> tuple[tuple[Epsilon, Place], ...] | None:
        """The places of a norm's epsilons; for a layer its own name, if no other node calls it."""
        if common is None:
            return None
        if node.op == "call_module":
            alone = calls[str(node.target)] == 1 and type(root.get_submodule(str(node.target))) in WITH_OWN_EPSILON
            layer = Place(str(node.target), OwnEpsilonNorm, torch.Size())
            return tuple((epsilon, layer) for epsilon in common.epsilons) if alone else None
        names = [_free_name(root, join(info(node).path, f"{e.node}_epsilon"), taken) for e in common.epsilons]
        places = [Place(name, OwnEpsilonCall, torch.Size()) for name in names]
        return tuple(zip(common.epsilons, places, strict=True))

    for node in nodes:
        own = sides.get(info(node).captured)
        if own is None or (own.before is None and own.after is None):
            continue
        alone = own.region is None and own.position == 0
        if alone and own.before is own.after and own.before is not None and _is_plain(root, node):
            if node.op == "call_module" and calls[str(node.target)] == 1:
                layer: Place | None = Place(str(node.target), TeleportedActivation, own.before.shape)
            else:
                layer = place(node, "", TeleportedActivation, own.before)
            update(node, slot=Slot(info(node).captured, own.position, None, layer))
        else:
            before, after = (place(node, s, Rescale, x) for s, x in (("_rescale", own.before), ("_restore", own.after)))
            epsilons = epsilon_places(node, own.common) if after is None else None
            update(node, slot=Slot(info(node).captured, own.position, own.region, None, before, after, epsilons))


def held(root: nn.Module, place: Place) -> Teleported | None:
    """The module at a place, if there is one."""
    try:
        module = root.get_submodule(place.name)
    except AttributeError:
        return None
    return module if isinstance(module, Teleported) else None


def fill(root: nn.Module, graph: fx.Graph, values: Mapping[str, Tensor | None]) -> bool:
    """Set the CoB at every place that is named; True if the graph has changed.

    A wrap that is no longer needed stays, and does nothing.
    """
    changed = False
    for node, slot in list(slots_of(graph)):
        for place in slot.places:
            if place.name not in values:
                continue
            value, module = values[place.name], held(root, place)
            if module is not None:
                module.put(value)
            elif value is not None:
                _install(root, graph, node, slot, place, value)
                changed = True
    return changed


def _install(root: nn.Module, graph: fx.Graph, node: fx.Node, slot: Slot, at: Place, value: Tensor) -> None:
    """Wrap a node's operation: `after * f(x / before)`, or give it another epsilon."""
    epsilon = next((epsilon for epsilon, place in slot.epsilons or () if place is at), None)
    if epsilon is not None:
        _give_epsilon(root, node if epsilon.node == slot.captured else _inside(node, epsilon.node), epsilon, at, value)
        return
    module = TeleportedActivation(_inner(root, node), value) if at is slot.activation else Rescale(value)
    module.training = root.training
    place_module(root, at.name, module)
    if at is slot.activation:
        node.op, node.target, node.args, node.kwargs = "call_module", at.name, (node.args[slot.position],), {}
        return
    readers = [] if at is slot.after else [node] if slot.region is None else _readers(node, *slot.region)
    with graph.inserting_before(readers[0]) if readers else graph.inserting_after(node):
        added = graph.call_module(at.name, (node,))
    describe(added, NodeInfo(path=info(node).path, restores="" if at is slot.before else slot.captured))
    if slot.region is not None and at is slot.before:
        source = next(x for x in readers[0].all_input_nodes if _named(x, slot.region[0]))
        added.args = (source,)
        for reader in readers:
            reader.replace_input_with(source, added)
    elif at is slot.before:
        added.args = (node.args[slot.position],)
        node.args = tuple(added if i == slot.position else a for i, a in enumerate(node.args))
    else:
        node.replace_all_uses_with(added, delete_user_cb=lambda user: user is not added)


def _give_epsilon(root: nn.Module, node: fx.Node, epsilon: Epsilon, at: Place, value: Tensor) -> None:
    """Have a norm, or an operation in one, take its epsilon times a power of a factor."""
    if node.op == "call_module":
        place_module(root, at.name, with_own_epsilon(root.get_submodule(at.name), value))
        return
    module = OwnEpsilonCall(node.target, epsilon.argument, epsilon.power, value)
    module.training = root.training
    place_module(root, at.name, module)
    if isinstance(epsilon.argument, str) and epsilon.argument not in node.kwargs:
        node.kwargs = {**node.kwargs, epsilon.argument: epsilon.default}
    node.op, node.target = "call_module", at.name


def _inside(exit: fx.Node, name: str) -> fx.Node:
    """The node of a region with this name in the captured graph."""
    at = exit
    while info(at).captured != name:
        at = at.prev
    return at


def _readers(exit: fx.Node, entry: str, inside: frozenset[str]) -> list[fx.Node]:
    """The nodes of a region that read its entry, in order."""
    nodes, waiting = {exit}, [exit]
    while waiting:
        new = {x for x in waiting.pop().all_input_nodes if info(x).captured in inside} - nodes
        nodes |= new
        waiting += new
    readers, at = [], exit
    while nodes:
        if at in nodes:
            nodes.discard(at)
            if any(_named(x, entry) for x in at.all_input_nodes):
                readers.append(at)
        at = at.prev
    return readers[::-1]


def _named(node: fx.Node, captured: str) -> bool:
    """True for the node with this name in the captured graph, and for the node that restores its value."""
    return captured in (info(node).captured, info(node).restores)


def _is_plain(root: nn.Module, node: fx.Node) -> bool:
    """True for an operation of one tensor, without parameters."""
    if len(node.all_input_nodes) != 1:
        return False
    if node.op != "call_module":
        return True
    return len(node.args) == 1 and not node.kwargs and not list(root.get_submodule(str(node.target)).state_dict())


def _inner(root: nn.Module, node: fx.Node) -> nn.Module:
    """The operation of a plain node as a module."""
    if node.op == "call_module":
        return copy.deepcopy(root.get_submodule(str(node.target)))
    return Operation(node.target, *node.args[1:], **node.kwargs)


def join(path: str, name: str) -> str:
    """A dotted name."""
    return f"{path}.{name}" if path else name


def _free_name(root: nn.Module, path: str, taken: set[str]) -> str:
    """A dotted name that is neither in the tree nor in `taken`; it is added to `taken`."""
    parent, _, name = path.rpartition(".")
    at: nn.Module | None = root
    for part in parent.split(".") if parent else ():
        at = None if at is None else at._modules.get(part)
    while (at is not None and hasattr(at, name)) or join(parent, name) in taken:
        name += "_"
    taken.add(join(parent, name))
    return join(parent, name)


def place_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a dotted path, with plain modules on the way."""
    *parents, name = path.split(".")
    at = root
    for parent in parents:
        child = at._modules.get(parent)
        if child is None:
            child = at._modules[parent] = nn.Module()
        at = child
    at._modules[name] = module
