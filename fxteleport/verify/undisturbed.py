"""Run networks and undo all changes of their modules, modes and tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.capture.opaque_leaves import Withheld
from fxteleport.passes.graph.contents import FILLED, Contents
from fxteleport.passes.graph.dtensor import is_sharded
from fxteleport.passes.graph.exported import evaluate
from fxteleport.passes.graph.node_info import info
from fxteleport.plan.teleportation import teleportation_of

_TABLES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_BOOKKEEPING = frozenset(vars(nn.Module())) - {*_TABLES, "training"}
Saved = dict[int, tuple[Tensor, Tensor]]  # id -> a tensor, and a copy of it


@contextlib.contextmanager
def undisturbed(*networks: nn.Module, weights: bool = True) -> Iterator[Saved]:
    """Undo afterwards all changes of networks; yields the saved tensors, by id, each with its copy.

    Restored are, for all modules (also those that are attributes, or in lists, as the opaque leaves of an emitted
    network are): parameters, buffers and other tensors, attributes, the contents of lists, sets and dictionaries, which
    parameters require gradients, and the gradients. Objects that are not modules are not restored.

    Args:
        weights: parameters may be written to, and are copied (see `may_write_weights`).
    """
    modules = _modules(networks)
    parameters = [p for network in networks for p in network.parameters()]
    with _gradients(parameters), _tensors(modules, weights) as saved, _containers(modules), _attributes(modules):
        yield saved


def may_write_weights(network: nn.Module) -> bool:
    """True unless the graph of a teleported network shows that its forward writes to no parameter."""
    teleportation = teleportation_of(network)
    if teleportation is None or teleportation.plan.constrained.opaque:
        return True
    nodes = (node for graph in teleportation.plan.captured.graphs for node in graph.nodes)
    return any(node.op == "get_attr" and info(node).is_aliased for node in nodes)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put the module into eval mode, and restore each part's mode afterwards; torch's fused fast paths are off."""
    modes = [(m, m.training) for m in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it uses other kernels than the captured graph
    try:
        evaluate(module)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for m, training in modes:
            m.training = training


def memory_of(x: Tensor) -> int:
    """What identifies the memory of a tensor: its storage, or itself where it has none of its own."""
    dense = x.layout is torch.strided and not is_sharded(x) and not x.is_meta
    return x.untyped_storage().data_ptr() if dense else id(x)


def is_same(a: Tensor, b: Tensor) -> bool:
    """True if two tensors are equal; False where torch cannot tell."""
    try:
        return torch.equal(a, b)
    except (RuntimeError, NotImplementedError):  # sparse, for instance
        return False


def _modules(networks: Sequence[nn.Module]) -> list[nn.Module]:
    """The modules of networks, also those that are attributes, or in lists and tuples."""
    by_id: dict[int, nn.Module] = {}
    waiting = list(networks)
    while waiting:
        for module in waiting.pop().modules():
            if id(module) in by_id:
                continue
            by_id[id(module)] = module
            for value in _own(module):
                held = value if isinstance(value, (list, tuple)) else (value,)
                waiting += [x for x in held if isinstance(x, nn.Module)]
    return list(by_id.values())


@contextlib.contextmanager
def _attributes(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Restore the attributes of modules. Only those that differ are set, since other threads may run the modules."""
    attributes = [(m.__dict__, dict(m.__dict__)) for m in modules]
    try:
        yield
    finally:
        for now, before in attributes:
            for name in [n for n in now if n not in before]:
                del now[name]
            for name, value in before.items():
                if now.get(name) is not value or name not in now:
                    now[name] = value


@contextlib.contextmanager
def _containers(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Restore lists, sets and dictionaries that are attributes of modules."""
    watched = [Contents(x) for m in modules for x in _own(m) if isinstance(x, FILLED)]
    try:
        yield
    finally:
        for contents in watched:
            contents.restore()


@contextlib.contextmanager
def _tensors(modules: Sequence[nn.Module], weights: bool) -> Iterator[Saved]:
    """Restore the memory and the values of parameters, buffers, and tensors that are attributes."""
    attributes = (x for m in modules for x in _own(m) if type(x) is Tensor)
    buffers = (b for m in modules for b in m._buffers.values() if b is not None)
    parameters = (p for m in modules for p in m._parameters.values() if p is not None and weights)
    own = (x for x in (*attributes, *buffers, *parameters) if type(x) is not Withheld)
    saved = {id(x): (x, x.detach().clone()) for x in own}
    memories = [(x, x.data) for x, _ in saved.values()]
    try:
        yield saved
    finally:
        with torch.no_grad():
            for tensor, data in memories:
                if memory_of(tensor) != memory_of(data):  # its `data` was replaced
                    tensor.data = data
            for tensor, before in saved.values():
                if not is_same(tensor, before):
                    tensor.copy_(before)


@contextlib.contextmanager
def _gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Restore `requires_grad` and the gradients of parameters."""
    states = [(p, p.requires_grad, p.grad) for p in parameters]
    try:
        yield
    finally:
        for parameter, required, grad in states:
            if parameter.requires_grad is not required:
                parameter.requires_grad_(required)
            if parameter.grad is not grad:
                parameter.grad = grad


def _own(module: nn.Module) -> Iterator[Any]:
    """The attributes of a module that are not torch's."""
    return (value for name, value in vars(module).items() if name not in _BOOKKEEPING)
