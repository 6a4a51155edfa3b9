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
from fxteleport.passes.call import Wrap
from fxteleport.passes.capture import Captured
from fxteleport.passes.constrain import Constrained
from fxteleport.passes.grad_mode import restoring, switch
from fxteleport.passes.kept import WHOLE
from fxteleport.passes.leaves import is_leaf, watched, without_hooks
from fxteleport.passes.maps import CobMap, compress
from fxteleport.passes.scale import Recipe
from fxteleport.passes.shadow import clone


class TeleportedModule(fx.GraphModule):
    """A `GraphModule` that keeps parameters which its graph does not use, also through `deepcopy`."""

    def recompile(self) -> Any:
        code = super().recompile()
        if any(node.target is switch for node in self.graph.nodes):
            cls = type(self)  # of this network alone
            cls.forward = restoring(cls.forward)  # type: ignore[method-assign]
        return code

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Load a state dict, but no other index buffers than those that the plan looked into.

        Raises:
            ModelError: it holds others.
        """
        for name, value in self.meta.get("planned_values", {}).items():
            given = state_dict.get(prefix + name)
            if isinstance(given, Tensor) and (given.shape != value.shape or not torch.equal(given.cpu(), value)):
                raise ModelError(f"the buffer '{prefix}{name}' of the state dict is not the one that was planned with:"
                                 " load it into the original, and plan that again")  # fmt: skip
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __deepcopy__(self, memo: dict[int, Any]) -> TeleportedModule:
        other = super().__deepcopy__(memo)
        _adopt(other, copy.deepcopy({k: v for k, v in self.__dict__.items() if k in (*_TABLES, WHOLE)}, memo))
        return other  # type: ignore[return-value]

    def __reduce__(self) -> Any:
        """With its graph: a `GraphModule` is unpickled by tracing its code, in which functions would meet proxies."""
        state = {k: v for k, v in self.__dict__.items() if k in (*_TABLES, WHOLE, "training", "meta")}
        return _unpickled, (_copied_graph(self.graph)[0], state, type(self).__name__)


def _unpickled(graph: fx.Graph, state: dict[str, Any], name: str) -> TeleportedModule:
    for node in graph.nodes:
        node.type = None  # none was noted; torch 2.9 pickles another thing in its place
    root = nn.Module()
    root.__dict__.update(state)
    module = TeleportedModule(root, graph, class_name=name)
    _adopt(module, state)
    module.training = state["training"]
    module.meta.update(state["meta"])
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
        return made[name]

    graph, names = _copied_graph(captured.graph)
    root = _skeleton(captured, copied)
    scaling.scale_(made, numbers)
    calls: dict[str, int] = {}
    for node in captured.graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    device = next((t.device for t in made.values()), torch.device("cpu"))
    for node, wrap in found.wraps.items():
        value = node.args[wrap.position].meta["val"]  # type: ignore[union-attr]
        numbers = tau.to(device)
        before = _part(wrap.before, numbers, wrap.part, value.dtype)
        after = _part(wrap.after, numbers, wrap.part, value.dtype)
        if not (is_trivial(before) and is_trivial(after)):
            _wrap(root, graph, names[node], wrap, before, after, alone=calls.get(str(node.target)) == 1)
    return _emitted(captured, graph, root)


def original(captured: Captured) -> TeleportedModule:
    """The captured graph on the model's own tensors (shared, not copied)."""
    graph, _ = _copied_graph(captured.graph)
    return _emitted(captured, graph, _skeleton(captured, lambda name, tensor: tensor))


def _emitted(captured: Captured, graph: fx.Graph, root: nn.Module) -> TeleportedModule:
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr") and not _UNWRITABLE.isdisjoint(str(node.target)):
            raise ModelError(f"torch.fx cannot write code for the name {node.target!r}: rename it in the model")
    graph.lint()
    module = TeleportedModule(root, graph, class_name=type(captured.model).__name__)
    _adopt(module, root.__dict__)
    module.train(captured.model.training)
    for path, source in captured.model.named_modules():
        if path:
            try:
                module.get_submodule(path).training = source.training
            except AttributeError:
                continue
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

    leaves = {str(n.target) for n in captured.graph.nodes if n.op == "call_module"} - captured.added.keys()
    root = nn.Module()
    made: dict[int, nn.Module] = {}
    if WHOLE in leaves:
        whole = clone(model, made_of)
        _adopt(root, {k: whole.__dict__[k] for k in _TABLES} | {WHOLE: whole})
        return root
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules(remove_duplicate=False):
        if inside and path.startswith(inside):
            continue
        if path in leaves:
            cls = captured.classes.get(path)
            twin = clone(module, made_of, path, class_of=_class_of(module, cls))
            if cls is not None or (is_leaf(module) and watched(module)):  # the graph does what its hooks do
                without_hooks(twin)
            if cls is None:
                inside = (*inside, path + ".")
            else:  # the rest of a batch norm subclass (its activation) is made of nodes of their own
                twin.__dict__["_modules"] = {}
        elif id(module) in made:  # under another name, with all that it holds
            twin = made[id(module)]
            inside = (*inside, path + ".")
        else:
            twin = nn.Module()
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
