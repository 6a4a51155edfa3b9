"""Run networks and undo all changes of their modules, modes and tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.capture.opaque_leaves import Withheld
from fxteleport.passes.graph import arrays, streams
from fxteleport.passes.graph.contents import FILLED
from fxteleport.passes.graph.dtensor import is_sharded
from fxteleport.passes.graph.exported import evaluate
from fxteleport.passes.graph.holders import are_same, contents_of, holds_fields, put_back
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.structure import PLAIN
from fxteleport.plan.teleportation import teleportation_of

_TABLES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_BOOKKEEPING = frozenset(vars(nn.Module())) - {*_TABLES, "training"}
_LARGEST = 1 << 26  # bytes of an array that is copied: a module may lead to a data set
Saved = dict[int, tuple[Tensor, Tensor]]  # id -> a tensor, and a copy of it


@contextlib.contextmanager
def undisturbed(*networks: nn.Module, weights: bool = True) -> Iterator[Saved]:
    """Undo afterwards all changes of networks; yields the saved tensors, by id, each with its copy.

    Undone is what a forward changes of its modules (those among them that others hold as attributes, or in lists, as an
    emitted network holds what is kept whole): parameters, buffers and other tensors that they hold, attributes
    and what these hold all the way down (lists and tables, objects of the user's, arrays, sources of random numbers),
    which parameters require gradients, and their gradients. Of an iterator that is an attribute, a copy is run. Not
    undone is what it does to arrays larger than 64 MiB, to other iterators, and to what no module leads to.

    Args:
        weights: parameters may be written to, and are copied (see `may_write_weights`).
    """
    modules = _modules(networks)
    parameters = [p for network in networks for p in network.parameters()]
    with _gradients(parameters), _tensors(modules, weights) as saved, _objects(modules), _attributes(modules):
        for module in modules:
            vars(module).update({k: streams.copied(v) for k, v in vars(module).items() if streams.is_iterator(type(v))})
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
def _objects(modules: Sequence[nn.Module]) -> Iterator[None]:
    """What the attributes of modules hold, all the way down, holds what it held."""
    held = [_Held(x) for x in _reached(x for m in modules for x in _own(m))]
    try:
        yield
    finally:
        for one in held:
            one.put_back()


class _Held:
    """An object, and what it holds."""

    def __init__(self, x: Any) -> None:
        self.x = x
        if arrays.is_array(type(x)):
            self.before = arrays.held_by(x)
        else:
            self.before = streams.position(x) if streams.is_source(type(x)) else contents_of(x)

    def put_back(self) -> None:
        if arrays.is_array(type(self.x)):
            if self.before is not None and not arrays.still_holds(self.x, self.before):
                arrays.put_into(self.x, self.before)
        elif streams.is_source(type(self.x)):
            if not streams.is_at(self.x, self.before):
                streams.put(self.x, self.before)
        elif not are_same(contents_of(self.x), self.before):
            put_back(self.x, self.before)


def _reached(values: Iterable[Any]) -> Iterator[Any]:
    """The objects that values lead to, and that may come to hold something else; no modules, and no tensors."""
    seen: dict[int, Any] = {}
    waiting = list(values)
    while waiting:
        x = waiting.pop()
        kind = type(x)
        if id(x) in seen or kind in PLAIN or isinstance(x, (Tensor, nn.Module)):
            continue
        seen[id(x)] = x
        if arrays.is_array(kind) or streams.is_source(kind):
            if getattr(x, "nbytes", 0) <= _LARGEST:
                yield x
            continue
        waiting += (held := contents_of(x)).values()
        if held or isinstance(x, FILLED) or holds_fields(kind):
            yield x


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
