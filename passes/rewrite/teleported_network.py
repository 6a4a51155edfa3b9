"""The emitted network: a `GraphModule` whose state dict names its wraps."""

from __future__ import annotations

import copy
import copyreg
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.capture.additions import CONSTANT
from fxteleport.passes.capture.leaf_table import WHOLE
from fxteleport.passes.capture.mode_choice import Choice, choosing
from fxteleport.passes.errors import GuardError, ModelError
from fxteleport.passes.graph.exported import in_mode
from fxteleport.passes.graph.grad_mode import restoring, switch
from fxteleport.passes.graph.module_clone import linked_to, path_of
from fxteleport.passes.graph.node_info import describe_copy
from fxteleport.passes.rewrite.any_names import TABLES, on_plain, parts, plain
from fxteleport.passes.rewrite.coded import codes_of
from fxteleport.passes.rewrite.extra_state import CARRIED
from fxteleport.passes.rewrite.frozen_modules import Excepted
from fxteleport.passes.rewrite.network_wraps import is_at, places, take_names_
from fxteleport.passes.rewrite.other_graphs import OtherGraphs, has_calls, trying_variants


class TeleportedModule(fx.GraphModule):
    """A `GraphModule` that keeps parameters which its graph does not use, also through `deepcopy`.

    Its state dict says which function it computes. When the state dict of a network of the same plan is loaded, the
    network gets the wraps that the keys name. If the keys name none, and the metadata say that wraps are named, the
    network has no wraps afterwards. Without such metadata (the original's state dict, or one of an older version), the
    keys of its own wraps are missing, and loading fails. The network forgets its own CoB when it loads another.
    """

    # The networks of the other graphs share this one's parameters and modules.
    choice: Choice | None = None  # selects the graph by mode; None where one graph serves both
    in_training: TeleportedModule | None = None  # has train mode's graph
    variants: tuple[TeleportedModule, ...] = ()  # have the graphs of other calls, and for data that take other branches
    has_calls: bool = False  # some of these take other arguments
    inner_networks: Mapping[str, TeleportedModule] = types.MappingProxyType({})  # of modules that opaque code calls
    excepted: dict[bool, Excepted] | None = None  # what the model's own `train` does

    @classmethod
    def around(cls, tables: dict[str, Any], graph: fx.Graph, name: str) -> TeleportedModule:
        """The network of a graph over parameters, buffers and modules, whatever their names."""
        network = TeleportedModule(nn.Module(), fx.Graph(), class_name=name)
        adopt(network, tables)
        network.graph = graph
        return network

    def __setattr__(self, name: str, value: Any) -> None:
        if name in own_names():
            object.__setattr__(self, name, value)  # and not to a part of this name
        else:
            super().__setattr__(name, value)

    def get_submodule(self, target: str) -> nn.Module:
        return plain(self).get_submodule(target) if target else self

    def get_parameter(self, target: str) -> nn.Parameter:
        return plain(self).get_parameter(target)

    def get_buffer(self, target: str) -> Tensor:
        return plain(self).get_buffer(target)

    def train(self, mode: bool = True) -> TeleportedModule:
        if WHOLE in self.__dict__ and not codes_of(self):  # the opaque model shares the modules
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
        _wrap_forward(self, type(self))
        return code

    def _apply(self, fn: Any, recurse: bool = True) -> TeleportedModule:
        constants = {k: t for k, t in self._buffers.items() if k.startswith(CONSTANT) and t is not None}
        super()._apply(fn, recurse)
        for name in constants.keys() & self._non_persistent_buffers_set:
            before, now = constants[name], self._buffers[name]
            if now is not None and before.dtype != now.dtype:  # in the model it is no buffer, which a cast would reach
                self._buffers[name] = before.to(now.device)
        self.link()
        return self

    def link(self) -> None:
        """Give the clones that a leaf's code reaches outside it this network's modes, parameters and buffers."""
        for leaf in list(self.modules()):
            for other in linked_to(leaf):
                own = self.get_submodule(path_of(other))
                other.training = own.training
                for table in ("_parameters", "_buffers"):
                    vars(other)[table].update({k: v for k, v in vars(own)[table].items() if k in vars(other)[table]})

    def choose(self, choice: Choice | None, others: OtherGraphs) -> None:
        """Set the other graphs: modes choose between eval and train mode's, data among variants."""
        self.__dict__["inner_networks"] = {path: self._beside(graph) for path, graph in others.inner.items()}
        for code in codes_of(self) if others.inner else ():
            code.belong(self)
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
        """The network of another graph over the parameters and modules of this one."""
        return TeleportedModule.around(self.__dict__, graph, type(self).__name__)

    @property
    def graphs(self) -> list[fx.Graph]:
        """All graphs, its own first."""
        return [network.graph for network in self.networks]

    @property
    def networks(self) -> list[TeleportedModule]:
        """This network, and those of its other graphs."""
        trained = [] if self.in_training is None else [self.in_training, *self.in_training.variants]
        return [self, *self.variants, *trained, *self.inner_networks.values()]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]][_NAMED] = True

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, metadata: Any, *args: Any) -> None:
        """Load a state dict; index buffers whose values the plan has used must be unchanged.

        Raises:
            ModelError: such a buffer has other values.
        """
        _require_planned(self.meta.get("planned_values", {}), state_dict, prefix)
        if metadata.get(_NAMED) or any(prefix + place.key in state_dict for place in places(self)):
            if not all(is_at(self, place, state_dict.get(prefix + place.key)) for place in places(self)):
                self.release()  # its weights are no longer those of its CoB
            take_names_(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, metadata, *args)

    def release(self) -> None:
        """Forget the plan and the change of basis, and with them the original model, which the plan keeps in memory.

        The function stays. `verify` then compares outputs only, and `save` refuses the network.
        """
        self.meta.pop(TELEPORTATION, None)

    @classmethod
    def _deepcopy_init(cls) -> Callable[..., None]:
        """The function that creates a copy (torch.fx calls it)."""
        return _begin_copy

    def __deepcopy__(self, memo: dict[int, Any]) -> TeleportedModule:
        other = super().__deepcopy__(memo)
        adopt(other, copy.deepcopy({k: v for k, v in self.__dict__.items() if k in _ADOPTED}, memo))
        other.__dict__["excepted"] = self.excepted
        other.choose(self.choice, self._others())  # type: ignore[operator]
        return other  # type: ignore[return-value]

    def __reduce__(self) -> Any:
        """Pickle the graph: torch.fx's own unpickling traces the code again, and fails in some functions."""
        state = {k: v for k, v in self.__dict__.items() if k in (*_ADOPTED, "training", "meta", "excepted")}
        return _unpickled, (copied_graph(self.graph), state, type(self).__name__, self.choice, self._others())

    def _others(self) -> OtherGraphs:
        """Copies of its other graphs."""
        return OtherGraphs.of(list(map(copied_graph, self.graphs[1:])), len(self.variants), self.inner_networks)


def _wrap_forward(network: TeleportedModule, cls: Any) -> None:
    """Wrap the generated forward of a network's class, which no other network has."""
    if not parts(network).isdisjoint(own_names()):
        cls.forward = on_plain(cls.forward)
    if any(node.target is switch for node in network.graph.nodes):
        cls.forward = restoring(cls.forward)
    if network.variants:
        network.__dict__["has_calls"] = has_calls([network.graph, *(variant.graph for variant in network.variants)])
        cls.forward = trying_variants(cls.forward)
    if network.choice is not None:
        cls.forward = choosing(cls.forward)
    if any(node.target == WHOLE for node in network.graph.nodes):
        cls.forward = _in_its_mode(cls.forward)
    if not network.has_calls:  # else each graph is asked whether it is of such a call
        cls.forward = _given(cls.forward, [node.target for node in network.graph.find_nodes(op="placeholder")])


def _begin_copy(copied: TeleportedModule, held: nn.Module, graph: fx.Graph) -> None:
    """Create a graph module's copy, whatever the names of its parts."""
    fx.GraphModule.__init__(copied, nn.Module(), fx.Graph())
    adopt(copied, held.__dict__)
    copied.training = held.training
    copied.graph = graph


def _require_planned(planned: Mapping[str, Tensor], state: Mapping[str, Any], prefix: str) -> None:
    for name, value in planned.items():
        given = state.get(prefix + name)
        if isinstance(given, Tensor) and (given.shape != value.shape or not torch.equal(given.cpu(), value)):
            raise ModelError(f"the buffer '{prefix}{name}' of the state dict is not the one that was planned with:"
                             " load it into the original, and plan that again")  # fmt: skip


@functools.cache
def own_names() -> frozenset[str]:
    """The attribute names of a network that plain modules do not have."""
    empty = fx.GraphModule(nn.Module(), fx.Graph())
    return frozenset({*dir(empty), *vars(empty), *vars(TeleportedModule)}) - frozenset(dir(nn.Module()))


def _given(forward: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    """The forward of a network that refuses other arguments than it was captured with: the model may take them."""
    rest = [frozenset(names[i:]) for i in range(len(names) + 1)]

    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) > len(names) or rest[len(args)] != kwargs.keys():
            given = [*names[: len(args)], *kwargs, *["one more"] * (len(args) - len(names))]
            raise GuardError(
                f"this network was captured with the arguments {names}, got {given}: capture it again with these"
            )
        return forward(self, *args, **kwargs)

    return wrapper


def _in_its_mode(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of a network that is one opaque leaf: it passes its mode on, as the leaf is no submodule."""

    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        leaf = self.__dict__[WHOLE]
        if leaf.training is not self.training:
            leaf.training = self.training
        return forward(self, *args, **kwargs)

    return wrapper


def _unpickled(
    graph: fx.Graph, state: dict[str, Any], name: str, choice: Choice | None, others: OtherGraphs
) -> TeleportedModule:
    for node in (n for g in (graph, *others.all) for n in g.nodes):
        node.type = None  # it was None; torch 2.9 pickles something else
    module = TeleportedModule.around(state, graph, name)
    module.training = state["training"]
    module.meta.update(state["meta"])
    module.__dict__["excepted"] = state.get("excepted")
    module.choose(choice, others)
    return module


# A model that is one opaque leaf is an attribute beside the tables, which it shares: its parameters keep their names.
_ADOPTED = (*TABLES, *CARRIED, WHOLE)


def _memory_format(name: str) -> torch.memory_format:
    value: torch.memory_format = getattr(torch, name)
    return value


def _reduced(value: torch.memory_format) -> tuple[Any, tuple[str]]:
    return _memory_format, (str(value).removeprefix("torch."),)


# `torch.save` writes a memory format as an attribute of the module `torch`, which it cannot write.
copyreg.pickle(torch.memory_format, _reduced)

TELEPORTATION = "teleportation"  # in the network's meta: how it was made (see `fxteleport.plan.teleportation`)
_NAMED = "wraps_are_named"  # in the metadata of a state dict


def adopt(module: nn.Module, tables: dict[str, Any]) -> None:
    """Give a module the tables of another, or those it was saved with."""
    for key in _ADOPTED:
        if key in tables:
            module.__dict__[key] = tables[key]


def copied_graph(graph: fx.Graph) -> fx.Graph:
    """The graph without the values it was captured with."""
    new = fx.Graph()
    names: dict[fx.Node, fx.Node] = {}
    new.output(new.graph_copy(graph, names))
    for old, node in names.items():
        describe_copy(node, old.name)
    return new
