"""The module tree of an emitted network: leaf modules, and plain holders of parameters, under the model's names."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.capture.leaf_table import WHOLE
from fxteleport.passes.graph.leaf_modules import as_its_class, is_leaf, watched, without_hooks
from fxteleport.passes.graph.module_clone import clone, modules_of
from fxteleport.passes.rewrite.any_names import TABLES
from fxteleport.passes.rewrite.coded import hold_code
from fxteleport.passes.rewrite.extra_state import carry
from fxteleport.passes.rewrite.frozen_modules import holder_of
from fxteleport.passes.rewrite.teleported_network import adopt
from fxteleport.passes.rewrite.wraps import join, place_module


def skeleton(
    captured: Captured, model: nn.Module, tensors: Callable[[str, Tensor], Tensor], assigned: Mapping[str, Tensor]
) -> nn.Module:
    """A module tree with the model's names: clones of leaf modules, and plain holders for all other modules."""

    def made_of(name: str, tensor: Tensor) -> Tensor:
        return tensors(name, assigned.get(name, tensor))

    called = {str(n.target) for graph in captured.graphs for n in graph.nodes if n.op == "call_module"}
    leaves = called - captured.added.keys() - captured.owners
    root = nn.Module()
    made: dict[int, nn.Module] = {}
    if WHOLE in leaves:
        whole = clone(model, made_of, beside=captured.reached.get(WHOLE))
        adopt(root, {k: whole.__dict__[k] for k in TABLES} | {WHOLE: whole})
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
            elif is_leaf(module) and watched(module):  # its hooks are nodes of the graph
                without_hooks(twin)
            if cls is None:
                inside = (*inside, path + ".")
            else:  # the rest of a batch norm subclass (its activation) has nodes of its own
                twin.__dict__["_modules"] = {}
                carry(module, twin)
        elif id(module) in made:  # a shared module under another name
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
    hold_code(captured, model, root, made_of)
    return root


def _class_of(module: nn.Module, cls: type | None) -> Callable[[nn.Module], type]:
    """The class of a clone: the module's own, but `cls` (if any) for `module` itself."""
    return lambda m: cls if cls is not None and m is module else type(m)
