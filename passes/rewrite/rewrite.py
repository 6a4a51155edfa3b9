"""Rewrite: graph + solution + CoB -> a new GraphModule.

The emitted network holds the original's parameters and buffers under the same names, scaled by their maps, and
the original's leaf modules. A node that needs another operation becomes a `TeleportedActivation`, or (where it
has parameters of its own) gets a `Rescale` before or after it (see `wraps`). With a CoB of 1 nothing is added.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.capture.leaf_table import WHOLE
from fxteleport.passes.capture.mode_choice import Choice, choosing
from fxteleport.passes.errors import ModelError
from fxteleport.passes.graph.exported import in_mode
from fxteleport.passes.graph.grad_mode import restoring, switch
from fxteleport.passes.graph.leaf_modules import as_its_class, gradient_hooks, is_leaf, watched, without_hooks
from fxteleport.passes.graph.module_clone import clone, linked_to, modules_of, path_of
from fxteleport.passes.graph.node_info import describe_copy
from fxteleport.passes.rewrite import wraps
from fxteleport.passes.rewrite.extra_state import CARRIED, carry
from fxteleport.passes.rewrite.frozen_modules import Excepted, excepted, holder_of, take_modes
from fxteleport.passes.rewrite.other_graphs import OtherGraphs, trying_variants
from fxteleport.passes.rewrite.sides import Sides
from fxteleport.passes.rewrite.wraps import join, place_module
from fxteleport.passes.scale.recipe import Recipe


class TeleportedModule(fx.GraphModule):
    """A `GraphModule` that keeps parameters which its graph does not use, also through `deepcopy`.

    Its state dict says which function it computes. Given the state dict of a network with another CoB of the same
    plan, it takes over the wraps that the keys name. Where they name none, it is wrapped nowhere if the state dict's
    metadata say that they would be named; else (the original's state dict, or one of before wraps had keys) those of
    its own wraps are missing, and it does not load. It forgets its own CoB where it is given another's.
    """

    choice: Choice | None = None  # where train mode has a graph of its own, or none
    in_training: TeleportedModule | None = None  # it holds that graph; its parameters and modules are this one's
    variants: tuple[TeleportedModule, ...] = ()  # they hold the graphs for data that decide otherwise; as above
    excepted: dict[bool, Excepted] | None = None  # what the model's own `train` does

    def train(self, mode: bool = True) -> TeleportedModule:
        if WHOLE in self.__dict__:  # it holds the same modules
            in_mode(self.__dict__[WHOLE], mode)
            self.training = mode
        else:
            super().train(mode)
        if self.excepted is not None:
            self.excepted[mode].impose(self)  # type: ignore[operator]
        self.link()
        return self

    def recompile(self) -> Any:
        code = super().recompile()
        cls = type(self)  # of this network alone
        if any(node.target is switch for node in self.graph.nodes):
            cls.forward = restoring(cls.forward)  # type: ignore[method-assign]
        if self.variants:
            cls.forward = trying_variants(cls.forward)  # type: ignore[method-assign]
        if self.choice is not None:
            cls.forward = choosing(cls.forward)  # type: ignore[method-assign]
        if any(node.target == WHOLE for node in self.graph.nodes):
            cls.forward = _in_its_mode(cls.forward)  # type: ignore[method-assign]
        return code

    def _apply(self, fn: Any, recurse: bool = True) -> TeleportedModule:
        super()._apply(fn, recurse)
        self.link()
        return self

    def link(self) -> None:
        """What the code of a leaf reaches outside it gets the modes, the parameters and the buffers of this network."""
        for leaf in list(self.modules()):
            for other in linked_to(leaf):
                own = self.get_submodule(path_of(other))
                other.training = own.training
                for table in ("_parameters", "_buffers"):
                    vars(other)[table].update({k: v for k, v in vars(own)[table].items() if k in vars(other)[table]})

    def choose(self, choice: Choice | None, others: OtherGraphs) -> None:
        """Have the modes of the network's modules choose between its graph and another one, and data among variants."""
        if choice is None and not others.variants:
            return
        self.__dict__["choice"] = choice
        self.__dict__["variants"] = tuple(map(self._beside, others.variants))
        if others.training is not None:
            other = self.__dict__["in_training"] = self._beside(others.training)
            other.__dict__["variants"] = tuple(map(self._beside, others.training_variants))
            other.recompile()
        self.recompile()

    def _beside(self, graph: fx.Graph) -> TeleportedModule:
        """Another graph over the parameters and modules of this network."""
        other = TeleportedModule(nn.Module(), fx.Graph(), class_name=type(self).__name__)
        _adopt(other, self.__dict__)
        other.graph = graph
        return other

    def put_(self, cobs: Mapping[str, Tensor | None]) -> None:
        """Set the CoB at every place that is named (see `wraps.fill`)."""
        changed = [wraps.fill(self, graph, cobs) for graph in self.graphs]
        if any(changed):
            for network in self._networks():
                network.recompile()

    def move_(self, cobs: Mapping[str, Tensor]) -> None:
        """Teleport each place on from where it is."""
        found: dict[str, Tensor | None] = {}
        for place in self.places:
            before = None if (module := wraps.held(self, place)) is None else module.cob
            if place.name in cobs:
                more = cobs[place.name]
                found[place.name] = more if before is None else before.mul_(more.to(before))
        self.put_(found)

    def take_names_(self, state: Mapping[str, Any], prefix: str = "") -> None:
        """Be wrapped where a state dict says so, and nowhere else; the values are not loaded yet."""
        like = next((p for p in self.parameters() if p.is_floating_point()), torch.empty(0))
        found: dict[str, Tensor | None] = {}
        for place in self.places:
            module = wraps.held(self, place)
            if prefix + place.key not in state:
                found[place.name] = None
            elif module is None or module.cob is None:
                found[place.name] = torch.full(place.shape, 2.0, dtype=like.dtype, device=like.device)
        self.put_(found)

    @property
    def places(self) -> list[wraps.Place]:
        """Where a CoB is kept, or may come to be."""
        return [place for _, slot in wraps.slots_of(*self.graphs) for place in slot.places]

    @property
    def graphs(self) -> list[fx.Graph]:
        """Its graph, its variants, and those of train mode if it has others."""
        return [network.graph for network in self._networks()]

    def _networks(self) -> list[TeleportedModule]:
        trained = [] if self.in_training is None else [self.in_training, *self.in_training.variants]
        return [self, *self.variants, *trained]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]][_NAMED] = True

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, metadata: Any, *args: Any) -> None:
        """Load a state dict, but no other index buffers than those that the plan looked into.

        Raises:
            ModelError: it holds others.
        """
        for name, value in self.meta.get("planned_values", {}).items():
            given = state_dict.get(prefix + name)
            if isinstance(given, Tensor) and (given.shape != value.shape or not torch.equal(given.cpu(), value)):
                raise ModelError(f"the buffer '{prefix}{name}' of the state dict is not the one that was planned with:"
                                 " load it into the original, and plan that again")  # fmt: skip
        if metadata.get(_NAMED) or any(prefix + place.key in state_dict for place in self.places):
            if not all(self._is_at(place, state_dict.get(prefix + place.key)) for place in self.places):
                self.release()  # it is no longer where that CoB led
            self.take_names_(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, metadata, *args)

    def release(self) -> None:
        """Forget the plan and the change of basis, and with them the original model, which the plan keeps in memory.

        The function stays. `verify` then compares outputs only, and `save` refuses the network.
        """
        self.meta.pop(TELEPORTATION, None)

    def _is_at(self, place: wraps.Place, cob: Tensor | None) -> bool:
        module = wraps.held(self, place)
        own = None if module is None else module.cob
        if own is None or cob is None:
            return own is cob
        return own.shape == cob.shape and torch.equal(own, cob.to(own))

    def __deepcopy__(self, memo: dict[int, Any]) -> TeleportedModule:
        other = super().__deepcopy__(memo)
        _adopt(other, copy.deepcopy({k: v for k, v in self.__dict__.items() if k in _ADOPTED}, memo))
        other.__dict__["excepted"] = self.excepted
        other.choose(self.choice, self._others())  # type: ignore[operator]
        return other  # type: ignore[return-value]

    def __reduce__(self) -> Any:
        """With its graph: a `GraphModule` is unpickled by tracing its code, in which functions would meet proxies."""
        state = {k: v for k, v in self.__dict__.items() if k in (*_ADOPTED, "training", "meta", "excepted")}
        return _unpickled, (_copied_graph(self.graph), state, type(self).__name__, self.choice, self._others())

    def _others(self) -> OtherGraphs:
        """Copies of its other graphs."""
        return OtherGraphs.of(list(map(_copied_graph, self.graphs[1:])), len(self.variants))


def _in_its_mode(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of a network that is one opaque leaf, which is none of its modules and so not told of modes."""

    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        whole = self.__dict__[WHOLE]
        if whole.training is not self.training:
            whole.training = self.training
        return forward(self, *args, **kwargs)

    return wrapper


def _unpickled(
    graph: fx.Graph, state: dict[str, Any], name: str, choice: Choice | None, others: OtherGraphs
) -> TeleportedModule:
    for node in (n for g in (graph, *others.all) for n in g.nodes):
        node.type = None  # none was noted; torch 2.9 pickles another thing in its place
    root = nn.Module()
    root.__dict__.update(state)
    module = TeleportedModule(root, graph, class_name=name)
    _adopt(module, state)
    module.training = state["training"]
    module.meta.update(state["meta"])
    module.__dict__["excepted"] = state.get("excepted")
    module.choose(choice, others)
    return module


# A model that is one opaque leaf is held beside the tables, which it shares: its parameters keep their names.
_TABLES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_ADOPTED = (*_TABLES, *CARRIED, WHOLE)

TELEPORTATION = "teleportation"  # in the network's meta: how it was made (see `fxteleport.plan.teleportation`)
_NAMED = "wraps_are_named"  # in the metadata of a state dict

_UNWRITABLE = frozenset('"\\\n\r')  # fx puts names between double quotes


def _adopt(module: nn.Module, tables: dict[str, Any]) -> None:
    for key in _ADOPTED:
        if key in tables:
            module.__dict__[key] = tables[key]


def rewrite(
    captured: Captured, sides: Mapping[str, Sides], scaling: Recipe, numbers: Tensor, tau: Tensor
) -> TeleportedModule:
    """The teleported network.

    Args:
        captured: the model and its graph.
        sides: which nodes may need another operation (see `sides.settle`).
        scaling: of the model's tensors.
        numbers: those that the recipe looks up.
        tau: a number for every symbol.
    """
    made: dict[str, Tensor] = {}

    def copied(name: str, tensor: Tensor) -> Tensor:
        name = captured.canonical.get(name, name)  # a buffer that forward has made since is copied as it is
        if name not in made:
            made[name] = tensor.detach().clone()
            if isinstance(tensor, nn.Parameter):
                made[name] = nn.Parameter(made[name], tensor.requires_grad)
                if tensor.requires_grad:  # a frozen one takes no hooks, and calls none
                    before, after = gradient_hooks(tensor)
                    for hook in before:
                        made[name].register_hook(hook)
                    for hook in after:
                        made[name].register_post_accumulate_grad_hook(hook)
        return made[name]

    graphs = list(map(_copied_graph, captured.graphs))
    root = _skeleton(captured, captured.model, copied, captured.assigned)
    scaling.scale_(made, numbers)
    device = next((t.device for t in made.values()), torch.device("cpu"))
    wraps.mark(root, graphs, sides)
    values = wraps.cobs((slot for _, slot in wraps.slots_of(*graphs)), sides, tau, device)
    for graph in graphs:
        wraps.fill(root, graph, values)
    return _emitted(captured, captured.model, graphs, root)


def original(captured: Captured) -> TeleportedModule:
    """The captured graph on the model's own tensors (shared, not copied)."""
    root = _skeleton(captured, captured.model, lambda name, tensor: tensor, captured.assigned)
    return _emitted(captured, captured.model, list(map(_copied_graph, captured.graphs)), root)


def live(captured: Captured, model: nn.Module, sides: Mapping[str, Sides]) -> TeleportedModule:
    """The captured graph on the tensors that the captured model (or a copy of it) holds now, ready to be wrapped."""
    kept = model.state_dict().keys()
    assigned = {name: tensor for name, tensor in captured.assigned.items() if name not in kept}
    graphs = list(map(_copied_graph, captured.graphs))
    root = _skeleton(captured, model, lambda name, tensor: tensor, assigned)
    wraps.mark(root, graphs, sides)
    return _emitted(captured, model, graphs, root)


def _emitted(captured: Captured, model: nn.Module, graphs: list[fx.Graph], root: nn.Module) -> TeleportedModule:
    for graph in graphs:
        for node in graph.nodes:
            if node.op in ("call_module", "get_attr") and not _UNWRITABLE.isdisjoint(str(node.target)):
                raise ModelError(f"torch.fx cannot write code for the name {node.target!r}: rename it in the model")
        graph.lint()
    module = TeleportedModule(root, graphs[0], class_name=type(model).__name__)
    _adopt(module, root.__dict__)
    module.choose(captured.choice, OtherGraphs.of(graphs[1:], len(captured.variants)))
    module.__dict__["excepted"] = excepted(model, captured.followed, below=True)
    take_modes(module, model, captured.followed)
    module.link()
    return module


def _copied_graph(graph: fx.Graph) -> fx.Graph:
    """The graph without the values it was captured with."""
    new = fx.Graph()
    names: dict[fx.Node, fx.Node] = {}
    new.output(new.graph_copy(graph, names))
    for old, node in names.items():
        describe_copy(node, old.name)
    return new


def _skeleton(
    captured: Captured, model: nn.Module, tensors: Callable[[str, Tensor], Tensor], assigned: Mapping[str, Tensor]
) -> nn.Module:
    """The model's tree of names: leaf modules as they are, everything else as plain holders of parameters."""

    def made_of(name: str, tensor: Tensor) -> Tensor:
        return tensors(name, assigned.get(name, tensor))

    called = {str(n.target) for graph in captured.graphs for n in graph.nodes if n.op == "call_module"}
    leaves = called - captured.added.keys()
    root = nn.Module()
    made: dict[int, nn.Module] = {}
    if WHOLE in leaves:
        whole = clone(model, made_of, beside=captured.reached.get(WHOLE))
        _adopt(root, {k: whole.__dict__[k] for k in _TABLES} | {WHOLE: whole})
        carry(model, root)
        return root
    inside: tuple[str, ...] = ()
    for path, module in modules_of(model).items():
        if inside and path.startswith(inside):
            continue
        if path in leaves:
            cls = captured.classes.get(path)
            beside = captured.reached.get(path)
            twin = clone(module, made_of, path, class_of=_class_of(module, cls), beside=beside)
            if cls is not None:
                as_its_class(twin)
            elif is_leaf(module) and watched(module):  # the graph does what its hooks do
                without_hooks(twin)
            if cls is None:
                inside = (*inside, path + ".")
            else:  # the rest of a batch norm subclass (its activation) is made of nodes of their own
                twin.__dict__["_modules"] = {}
                carry(module, twin)
        elif id(module) in made:  # under another name, with all that it holds
            twin = made[id(module)]
            inside = (*inside, path + ".")
        else:
            twin = holder_of(module, path, captured.followed)
            for name, parameter in module._parameters.items():
                twin._parameters[name] = parameter if parameter is None else made_of(join(path, name), parameter)  # type: ignore[assignment]
            for name, buffer in module._buffers.items():
                twin._buffers[name] = buffer if buffer is None else made_of(join(path, name), buffer)
            twin._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
            carry(module, twin)
        if path:
            made.setdefault(id(module), twin)
            place_module(root, path, twin)
        else:
            root = made[id(module)] = twin
    for path, extra in captured.added.items():
        if isinstance(extra, Tensor):
            root.register_buffer(path, extra, persistent=False)
        else:
            place_module(root, path, made_leaf := copy.deepcopy(extra))
            owner, _, name = path.rpartition(".")
            if hasattr(type(holder := root.get_submodule(owner)), name):  # a method of a module that is kept whole, too
                holder.__dict__[name] = made_leaf
    return root


def _class_of(module: nn.Module, cls: type | None) -> Callable[[nn.Module], type]:
    """The class of a clone: the module's own, but `cls` (if any) for `module` itself."""
    return lambda m: cls if cls is not None and m is module else type(m)
