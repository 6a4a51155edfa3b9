"""Rewrite: graph + solution + CoB -> a new GraphModule.

The emitted network holds the original's parameters and buffers under the same names, scaled by their maps, and
the original's leaf modules. A node that needs another operation becomes a `TeleportedActivation`, or (where it
has parameters of its own) gets a `Rescale` before or after it. With a CoB of 1 nothing is added.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.errors import ModelError
from fxteleport.modules import Operation, Rescale, TeleportedActivation, is_trivial
from fxteleport.passes.both_modes import Choice, choosing
from fxteleport.passes.call import Wrap
from fxteleport.passes.capture import Captured
from fxteleport.passes.constrain import Constrained
from fxteleport.passes.frozen import Excepted, excepted, holder_of, take_modes
from fxteleport.passes.grad_mode import restoring, switch
from fxteleport.passes.kept import WHOLE
from fxteleport.passes.leaves import as_its_class, is_leaf, watched, without_hooks
from fxteleport.passes.maps import CobMap, compress
from fxteleport.passes.scale import Recipe
from fxteleport.passes.shadow import clone


class TeleportedModule(fx.GraphModule):
    """A `GraphModule` that keeps parameters which its graph does not use, also through `deepcopy`."""

    choice: Choice | None = None  # where train mode has a graph of its own, or none
    in_training: TeleportedModule | None = None  # it holds that graph; its parameters and modules are this one's
    excepted: dict[bool, Excepted] | None = None  # what the model's own `train` does

    def train(self, mode: bool = True) -> TeleportedModule:
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
        if self.choice is not None:
            cls.forward = choosing(cls.forward)  # type: ignore[method-assign]
        return code

    def _apply(self, fn: Any, recurse: bool = True) -> TeleportedModule:
        super()._apply(fn, recurse)
        self.link()
        return self

    def link(self) -> None:
        """What the code of a leaf reaches outside it gets the modes, the parameters and the buffers of this network."""
        for leaf in list(self.modules()):
            for other in vars(leaf).get("_beside", ()):
                path = vars(other)["_path"]
                own = self.get_submodule(path)
                other.training = own.training
                for table in ("_parameters", "_buffers"):
                    vars(other)[table].update({k: v for k, v in vars(own)[table].items() if k in vars(other)[table]})

    def choose(self, choice: Choice | None, training: fx.Graph | None) -> None:
        """Have the modes of the network's modules choose between its graph and another one."""
        if choice is None:
            return
        self.__dict__["choice"] = choice
        if training is not None:
            other = TeleportedModule(nn.Module(), fx.Graph(), class_name=type(self).__name__)
            _adopt(other, self.__dict__)
            other.graph = training
            self.__dict__["in_training"] = other
        self.recompile()

    def __deepcopy__(self, memo: dict[int, Any]) -> TeleportedModule:
        other = super().__deepcopy__(memo)
        _adopt(other, copy.deepcopy({k: v for k, v in self.__dict__.items() if k in (*_TABLES, WHOLE)}, memo))
        other.__dict__["excepted"] = self.excepted
        other.choose(self.choice, self._training_graph())  # type: ignore[operator]
        return other  # type: ignore[return-value]

    def __reduce__(self) -> Any:
        """With its graph: a `GraphModule` is unpickled by tracing its code, in which functions would meet proxies."""
        state = {k: v for k, v in self.__dict__.items() if k in (*_TABLES, WHOLE, "training", "meta", "excepted")}
        graphs = (_copied_graph(self.graph)[0], self._training_graph())
        return _unpickled, (graphs[0], state, type(self).__name__, self.choice, graphs[1])

    def _training_graph(self) -> fx.Graph | None:
        return None if self.in_training is None else _copied_graph(self.in_training.graph)[0]


def _unpickled(
    graph: fx.Graph, state: dict[str, Any], name: str, choice: Choice | None = None, training: fx.Graph | None = None
) -> TeleportedModule:
    for node in (*graph.nodes, *(training.nodes if training is not None else ())):
        node.type = None  # none was noted; torch 2.9 pickles another thing in its place
    root = nn.Module()
    root.__dict__.update(state)
    module = TeleportedModule(root, graph, class_name=name)
    _adopt(module, state)
    module.training = state["training"]
    module.meta.update(state["meta"])
    module.__dict__["excepted"] = state.get("excepted")
    module.choose(choice, training)
    return module


# A model that is one opaque leaf is held beside the tables, which it shares: its parameters keep their names.
_TABLES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


_UNWRITABLE = frozenset('"\\\n\r')  # fx puts names between double quotes


def _adopt(module: nn.Module, tables: dict[str, Any]) -> None:
    for key in (*_TABLES, WHOLE):
        if key in tables:
            module.__dict__[key] = tables[key]


def rewrite(captured: Captured, found: Constrained, scaling: Recipe, numbers: Tensor, tau: Tensor) -> TeleportedModule:
    """The teleported network; `tau` holds a number for every symbol, `numbers` those that the recipe looks up."""
    made: dict[str, Tensor] = {}

    def copied(name: str, tensor: Tensor) -> Tensor:
        name = captured.canonical.get(name, name)  # a buffer that forward has made since is copied as it is
        if name not in made:
            made[name] = tensor.detach().clone()
            if isinstance(tensor, nn.Parameter):
                made[name] = nn.Parameter(made[name], tensor.requires_grad)
                for hook in (tensor._backward_hooks or {}).values():
                    made[name].register_hook(hook)
        return made[name]

    copies = [_copied_graph(graph) for graph in captured.graphs]
    names = {old: new for _, renamed in copies for old, new in renamed.items()}
    root = _skeleton(captured, copied)
    scaling.scale_(made, numbers)
    calls: dict[str, int] = {}
    for node in names:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    device = next((t.device for t in made.values()), torch.device("cpu"))
    for node, wrap in found.wraps.items():
        value = node.args[wrap.position].meta["val"]  # type: ignore[union-attr]
        numbers = tau.to(device)
        before = _part(wrap.before, numbers, wrap.part, value.dtype)
        after = _part(wrap.after, numbers, wrap.part, value.dtype)
        if not (is_trivial(before) and is_trivial(after)):
            _wrap(root, names[node].graph, names[node], wrap, before, after, alone=calls.get(str(node.target)) == 1)
    return _emitted(captured, [graph for graph, _ in copies], root)


def original(captured: Captured) -> TeleportedModule:
    """The captured graph on the model's own tensors (shared, not copied)."""
    graphs = [_copied_graph(graph)[0] for graph in captured.graphs]
    return _emitted(captured, graphs, _skeleton(captured, lambda name, tensor: tensor))


def _emitted(captured: Captured, graphs: list[fx.Graph], root: nn.Module) -> TeleportedModule:
    for graph in graphs:
        for node in graph.nodes:
            if node.op in ("call_module", "get_attr") and not _UNWRITABLE.isdisjoint(str(node.target)):
                raise ModelError(f"torch.fx cannot write code for the name {node.target!r}: rename it in the model")
        graph.lint()
    module = TeleportedModule(root, graphs[0], class_name=type(captured.model).__name__)
    _adopt(module, root.__dict__)
    module.choose(captured.choice, graphs[1] if len(graphs) > 1 else None)
    module.__dict__["excepted"] = excepted(captured.model)
    take_modes(module, captured.model)
    for path, leaf in captured.added.items():
        owner = getattr(leaf, "layer", leaf).__dict__.get("_path")  # a layer of the model's that it stands for
        if owner is not None and isinstance(leaf, nn.Module):
            module.get_submodule(path).train(captured.parts[owner].training)
    module.link()
    return module


def _copied_graph(graph: fx.Graph) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """The graph without the values it was captured with, and where its nodes went."""
    new = fx.Graph()
    names: dict[fx.Node, fx.Node] = {}
    new.output(new.graph_copy(graph, names))
    for node in new.nodes:
        node.meta = {k: v for k, v in node.meta.items() if k in ("path", "source", "keep")}
    for old, node in names.items():
        node.meta["captured"] = old.name  # a copy may be named anew
    return new, names


def _skeleton(captured: Captured, tensors: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """The model's tree of names: leaf modules as they are, everything else as plain holders of parameters."""
    model = captured.model

    def made_of(name: str, tensor: Tensor) -> Tensor:
        return tensors(name, captured.assigned.get(name, tensor))

    called = {str(n.target) for graph in captured.graphs for n in graph.nodes if n.op == "call_module"}
    leaves = called - captured.added.keys()
    root = nn.Module()
    made: dict[int, nn.Module] = {}
    if WHOLE in leaves:
        whole = clone(model, made_of, beside=captured.reached.get(WHOLE))
        _adopt(root, {k: whole.__dict__[k] for k in _TABLES} | {WHOLE: whole})
        return root
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules(remove_duplicate=False):
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
        elif id(module) in made:  # under another name, with all that it holds
            twin = made[id(module)]
            inside = (*inside, path + ".")
        else:
            twin = holder_of(module)
            for name, parameter in module._parameters.items():
                twin._parameters[name] = parameter if parameter is None else made_of(_join(path, name), parameter)  # type: ignore[assignment]
            for name, buffer in module._buffers.items():
                twin._buffers[name] = buffer if buffer is None else made_of(_join(path, name), buffer)
            twin._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
        if path:
            made.setdefault(id(module), twin)
            _place(root, path, twin)
        else:
            root = made[id(module)] = twin
    for path, extra in captured.added.items():
        if isinstance(extra, Tensor):
            root.register_buffer(path, extra, persistent=False)
        else:
            _place(root, path, copy.deepcopy(extra))
    return root


def _class_of(module: nn.Module, cls: type | None) -> Callable[[nn.Module], type]:
    """The class of a clone: the module's own, but `cls` (if any) for `module` itself."""
    return lambda m: cls if cls is not None and m is module else type(m)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _free_name(root: nn.Module, path: str) -> str:
    """A dotted name that nothing in the tree has yet."""
    parent, _, name = path.rpartition(".")
    at: nn.Module | None = root
    for part in parent.split(".") if parent else ():
        at = None if at is None else at._modules.get(part)
    while at is not None and hasattr(at, name):
        name += "_"
    return _join(parent, name)


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a dotted path, with plain modules on the way."""
    *parents, name = path.split(".")
    at = root
    for parent in parents:
        child = at._modules.get(parent)
        if child is None:
            child = at._modules[parent] = nn.Module()
        at = child
    at._modules[name] = module


def _wrap(
    root: nn.Module,
    graph: fx.Graph,
    node: fx.Node,
    wrap: Wrap,
    before: Tensor | None,
    after: Tensor | None,
    alone: bool,
) -> None:
    """Teleport a node's operation: `after * f(x / before)`."""
    source = node.args[wrap.position]
    path = str(node.meta.get("path", ""))
    if wrap.before is wrap.after and before is not None:
        inner = _inner(root, node)
        if inner is not None:
            in_place = node.op == "call_module" and alone
            target = str(node.target) if in_place else _free_name(root, _join(path, node.name))
            _place(root, target, TeleportedActivation(inner, before))
            node.op, node.target, node.args, node.kwargs = "call_module", target, (source,), {}
            return
    if not is_trivial(before):
        assert before is not None
        target = _free_name(root, _join(path, f"{node.name}_rescale"))
        _place(root, target, Rescale(before.reciprocal()))
        with graph.inserting_before(node):
            scaled = graph.call_module(target, (source,))
        scaled.meta["path"] = path
        node.args = tuple(scaled if i == wrap.position else a for i, a in enumerate(node.args))
    if not is_trivial(after):
        assert after is not None
        target = _free_name(root, _join(path, f"{node.name}_restore"))
        _place(root, target, Rescale(after))
        with graph.inserting_after(node):
            restored = graph.call_module(target, (node,))
        restored.meta.update(path=path, teleports=node.meta["captured"])
        node.replace_all_uses_with(restored, delete_user_cb=lambda user: user is not restored)


def _inner(root: nn.Module, node: fx.Node) -> nn.Module | None:
    """The operation of a node as a module without parameters; None where it has some, or other tensors."""
    if len(node.all_input_nodes) != 1:
        return None
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return None if list(module.state_dict()) or len(node.args) != 1 or node.kwargs else copy.deepcopy(module)
    return Operation(node.target, *node.args[1:], **node.kwargs)


def _part(cob: CobMap | None, tau: Tensor, part: str, dtype: torch.dtype) -> Tensor | None:
    """The part of a CoB that matters to an operation."""
    if cob is None or not cob.factors:
        return None
    value = tau.new_ones(())
    for factor in cob.factors:  # symbols that the solver made one no longer differ: their axes shrink first
        value = value * compress(CobMap((factor,)).scale(tau))  # type: ignore[arg-type]
    value = torch.sign(value) if part == "sign" else value.abs() if part == "magnitude" else value
    value = compress(value)
    while value.ndim and len(value) == 1:  # a run may have fewer axes: one image, or a batch of one that is squeezed
        value = value[0]
    return value.to(dtype.to_real())
