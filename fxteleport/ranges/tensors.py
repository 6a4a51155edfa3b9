"""The tensors of an emitted network by name: read, replaced, counted, removed."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx, nn


def get_tensor(root: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of a name."""
    tensor: Tensor = operator.attrgetter(name)(root)
    return tensor


def set_tensor(root: nn.Module, name: str, value: Tensor) -> None:
    """Replace a parameter or a buffer, or add a parameter."""
    path, _, key = name.rpartition(".")
    owner = root.get_submodule(path)
    if key in owner._buffers:
        owner._buffers[key] = value
        return
    old = owner._parameters.get(key)
    owner._parameters[key] = nn.Parameter(value, requires_grad=old is None or old.requires_grad)


_FORM = frozenset({"shape", "ndim", "dtype", "device", "size", "dim", "numel", "is_floating_point"})


def uses_of(network: fx.GraphModule, name: str) -> int:
    """The number of calls that compute with a tensor, under any of its names; reading its shape does not count."""
    tensor, uses = get_tensor(network, name), 0
    for node in network.graph.nodes:
        if node.op == "get_attr" and get_tensor(network, str(node.target)) is tensor:
            uses += sum(not _asks_for_form(user) for user in node.users)
        elif node.op == "call_module":
            uses += any(t is tensor for t in _tensors(network.get_submodule(str(node.target))))
    return uses


def _asks_for_form(node: fx.Node) -> bool:
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _FORM
    return node.op == "call_method" and node.target in _FORM


def _tensors(module: nn.Module) -> list[Any]:
    return [*module.parameters(), *module.buffers()]


def remove_unused(network: fx.GraphModule) -> None:
    """Remove dead calls, modules that no call names, and the tensors of functional norms that are gone."""
    before = {str(n.target) for n in network.graph.nodes if n.op == "get_attr"}
    network.graph.eliminate_dead_code()
    for name in before - {str(n.target) for n in network.graph.nodes if n.op == "get_attr"}:
        path, _, key = name.rpartition(".")
        owner = network.get_submodule(path)
        owner._parameters.pop(key, None)
        owner._buffers.pop(key, None)
    used = {str(n.target) for n in network.graph.nodes if n.op == "call_module"}
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if not path or path in used or not isinstance(module, nn.modules.batchnorm._NormBase):
            continue
        owner_path, _, key = path.rpartition(".")
        table = network.get_submodule(owner_path)._modules
        if module._modules:  # a batch norm subclass with its activation
            table[key] = holder = nn.Module()
            holder._modules = module._modules
            holder.training = module.training
        else:
            table.pop(key, None)
