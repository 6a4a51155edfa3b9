"""Lowering: values as a graph holds them.

An argument structure becomes one with nodes in place of proxies. A parameter, a buffer or a constant tensor is a
`get_attr` node, one for all its names; an object is built anew by a node of its own.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from fxteleport.passes.capture import meta_eval, proxy
from fxteleport.passes.capture.patching import unrecorded
from fxteleport.passes.capture.proxy import NumberProxy, Proxy, is_proxy
from fxteleport.passes.capture.specialization import Decisions
from fxteleport.passes.graph.module_clone import modules_of
from fxteleport.passes.graph.node_info import NodeInfo, describe
from fxteleport.passes.graph.source_location import calling_line
from fxteleport.passes.graph.storage import by_memory, equal, memory, overlapping
from fxteleport.passes.graph.structure import PLAIN, is_record, is_spelt, take_apart

if TYPE_CHECKING:
    from fxteleport.passes.capture.tracer import Tracer


class Lowering(Decisions):
    """A graph under construction, with the tensors and objects that it refers to by name."""

    def __init__(self, model: nn.Module, hashes: bool = False) -> None:
        super().__init__(hashes)
        self.metas: dict[str, Tensor] = {}
        self.canonical: dict[str, str] = {}
        self.twins: dict[str, nn.Module] = {}
        self.added: dict[str, nn.Module | Tensor] = {}
        self._attributes: dict[str, Proxy] = {}
        self._constants: dict[int, Proxy] = {}
        self._keep: list[Tensor] = []  # those whose id is in use above
        self._own: dict[int, str] = {}  # the model's tensors, by id
        self.held: set[str] = set()  # those that code holds by itself, beside their modules
        self.parts = modules_of(model)
        tensors: dict[str, Tensor] = {}
        for name, tensor in named_tensors(self.parts):
            own = self.canonical[name] = self._own.setdefault(id(tensor), name)
            self.metas[name] = self.metas[own] if own in self.metas else _meta_of(tensor)
            tensors[own] = tensor
        self._trained = {name for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}
        self._memories = by_memory(tensors)
        self.overlapping = overlapping(tensors, self._memories)

    def handle(self, node: fx.Node, value: Any) -> Proxy:
        """The proxy of a node."""
        made = proxy.make(node, cast("Tracer", self), value)
        if issubclass(type(made), NumberProxy):
            self.numbers.append(cast("NumberProxy", made))
        return made

    def lower(self, x: Any) -> Any:
        """An argument structure with nodes in place of proxies, and constants as attributes."""
        kind = type(x)
        if kind in PLAIN:
            return x
        if is_proxy(x):
            if x._node._erased:
                raise RuntimeError("a value of a part that could not be traced is still in use")
            return x._node
        if proxy.is_left(x):
            x = x._value
            kind = type(x)
        if kind is tuple or kind is list:
            return kind(map(self.lower, x))
        if kind is slice:
            return slice(self.lower(x.start), self.lower(x.stop), self.lower(x.step))
        if isinstance(x, dict):
            items = {k: self.lower(v) for k, v in x.items()}
            return items if kind is dict else self._built(x, items)
        if kind is PackedSequence:
            return self._built(proxy.plain(x), **self._fields(x._asdict()))
        if isinstance(x, tuple) and proxy.is_named_tuple(kind):
            fields = list(map(self.lower, x))
            # What forward returns, fx of torch 2.11 and before writes by its repr, in which the class has no address.
            return kind(*fields) if self.stack else self._built(x, *fields)
        if kind is torch.Size and proxy.find_tracer(x) is not None:
            return self._built(proxy.plain(x), list(map(self.lower, x)))
        if isinstance(x, tuple):
            return kind(map(self.lower, x))
        if isinstance(x, Tensor):
            return self.constant(x)._node
        if is_record(x):
            return self._built(x, **self._fields({f.name: getattr(x, f.name) for f in dataclasses.fields(x) if f.init}))
        if isinstance(x, np.generic):
            return x.item()
        if isinstance(x, np.ndarray) and x.dtype.kind in "biu":  # an index
            return self.constant(torch.from_numpy(x.copy()))._node
        return x if is_spelt(x) else self._assembled(x)

    def _assembled(self, x: Any) -> fx.Node:
        """A node that makes an object anew around the network's values."""
        if self.stack:
            raise RuntimeError(
                f"a {type(x).__name__} reaches it, which may change there: tensors and plain values do not"
            )
        leaf, values = take_apart(x, is_proxy)
        path = self.free_path(f"_{type(x).__name__}")
        self.added[path] = self.twins[path] = leaf
        node = self.graph.create_node("call_module", path, tuple(map(self.lower, values)))
        describe(node, NodeInfo(x))
        return node

    def _fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The lowered fields of an object, but those that are None, which are so by default."""
        return {name: self.lower(value) for name, value in fields.items() if value is not None}

    def _built(self, value: Any, /, *args: Any, **fields: Any) -> fx.Node:
        """A node that builds an object (a data class, a packed sequence, an OrderedDict) from what is lowered."""
        node = self.graph.call_function(type(value), args, fields)
        describe(node, NodeInfo(value))
        return node

    @unrecorded
    def attribute(self, name: str) -> Proxy:
        """The proxy of a parameter or buffer, by its dotted name; one for all its names."""
        name = self.canonical[name]
        found = self._attributes.get(name)
        if found is None:
            node = self.graph.get_attr(name) if not self.added else self.graph.create_node("get_attr", name)
            value = self.metas[name]
            value = value if value.is_meta else value.clone()  # forward may write to it
            describe(node, NodeInfo(value, path=name.rpartition(".")[0], source=calling_line()))
            found = self._attributes[name] = self.handle(node, value)
        return found

    def read(self, name: str) -> Proxy | None:
        """The proxy of a parameter or buffer that forward has read."""
        return self._attributes.get(self.canonical.get(name, name))

    def is_parameter(self, handle: Proxy) -> bool:
        """True for the proxy of a parameter of the model's."""
        return handle._node.op == "get_attr" and handle._node.target in self._trained

    def constant(self, tensor: Tensor) -> Proxy:
        """The proxy of a tensor that `forward` made from no input, or that is no attribute of the model."""
        if id(tensor) in self._own:  # one of the model's after all, that a closure holds
            return self._held(tensor)
        found = self._constants.get(id(tensor))
        if found is None or not equal(found._value, tensor):  # it was written to since its last use
            if tensor.is_meta:
                raise RuntimeError("a tensor computed outside the trace reached it")
            name = f"_tensor_constant{sum(isinstance(v, Tensor) for v in self.added.values())}"
            value = self.added[name] = tensor.detach().clone()
            node = self.graph.create_node("get_attr", name)
            describe(node, NodeInfo(value))
            self._keep.append(tensor)
            for place in memory(tensor):
                self.overlapping.update(self._memories.get(place, ()))
            found = self._constants[id(tensor)] = self.handle(node, value)
        return found

    def adopted(self, x: Any) -> Any:
        """An argument structure with proxies for the model's own tensors, which a list, say, or a closure holds."""
        kind = type(x)
        if kind in PLAIN:
            return x
        if id(x) in self._own:
            return self._held(x)
        if kind is tuple or kind is list:
            made = list(map(self.adopted, x))
            return x if all(map(operator.is_, made, x)) else kind(made)
        if kind is dict:
            return {k: self.adopted(v) for k, v in x.items()}
        return x

    def _held(self, tensor: Tensor) -> Proxy:
        name = self._own[id(tensor)]
        self.held.add(name)
        return self.attribute(name)

    def are_constants(self, handles: Sequence[Proxy]) -> bool:
        """True where one of them shares memory with a constant."""
        places = set().union(*(memory(h._value) for h in handles)) if self._keep else set()
        return any(not places.isdisjoint(meta_eval.memory_of(t)) for t in self._keep) if places else False

    def free_path(self, wanted: str) -> str:
        """A dotted name that nothing has yet."""
        path = wanted.lstrip(".")
        while path in self.added or path in self.metas or path in self.parts:
            path += "_"
        return path


def named_tensors(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """The parameters, then the buffers, of a model's modules (under each of their paths)."""
    for table in ("_parameters", "_buffers"):
        for path, module in modules.items():
            prefix = f"{path}." if path else ""
            yield from ((prefix + name, t) for name, t in getattr(module, table).items() if t is not None)


def _meta_of(tensor: Tensor) -> Tensor:
    """A meta stand-in; integer and boolean tensors keep their values, since they index and branch."""
    if tensor.is_meta:
        return tensor.detach()
    if tensor.is_floating_point() or tensor.is_complex():
        return torch.empty_like(tensor, device=meta_eval.META)
    return tensor.detach().cpu()
