"""The tensors that a graph refers to by name: parameters and buffers of the model, and constants of the trace."""

from __future__ import annotations

import operator
from collections.abc import Container, Sequence
from typing import Any

from torch import Tensor, fx

from fxteleport.passes.capture.additions import Additions
from fxteleport.passes.capture.graph_builder import GraphBuilder
from fxteleport.passes.capture.meta_values import MetaValues
from fxteleport.passes.capture.model_tensors import ModelTensors
from fxteleport.passes.capture.proxy import Proxy, node_of, value_of
from fxteleport.passes.capture.recording_mode import unrecorded
from fxteleport.passes.graph.node_info import NodeInfo
from fxteleport.passes.graph.source_location import calling_line
from fxteleport.passes.graph.storage import equal, memory
from fxteleport.passes.graph.structure import PLAIN


class TensorTable:
    """Finds tensors by identity; each has one `get_attr` node for all its names and uses.

    Attributes:
        held: names of the model's tensors that code refers to directly (in a list, a closure), beside their modules.
    """

    def __init__(self, model: ModelTensors, builder: GraphBuilder, additions: Additions, values: MetaValues) -> None:
        self.held: set[str] = set()
        self._model, self._builder, self._additions, self._values = model, builder, additions, values
        self._attributes: dict[str, Proxy] = {}
        self._constants: dict[int, Proxy] = {}
        self._kept: list[Tensor] = []  # keeps tensors alive whose ids are keys above

    @unrecorded
    def attribute(self, name: str) -> Proxy:
        """The proxy of a parameter or buffer, by any of its dotted names."""
        name = self._model.canonical[name]
        known = self._attributes.get(name)
        if known is None:
            value = self._model.metas[name]
            value = value if value.is_meta else value.clone()  # forward may write to it
            facts = NodeInfo(value, path=name.rpartition(".")[0], source=calling_line())
            known = self._attributes[name] = self._builder.attribute(name, facts)
        return known

    def read(self, name: str) -> Proxy | None:
        """The proxy of a parameter or buffer that forward has read."""
        return self._attributes.get(self._model.canonical.get(name, name))

    def own(self, tensor: Tensor | None) -> Any:
        """The proxy of one of the model's tensors; any other tensor itself."""
        name = self._model.names.get(id(tensor))
        return tensor if name is None else self.attribute(name)

    def is_parameter(self, handle: Proxy) -> bool:
        """True for the proxy of a parameter of the model's."""
        node = node_of(handle)
        return node.op == "get_attr" and node.target in self._model.parameters

    def adopted(self, x: Any) -> Any:
        """An argument structure with proxies for the model's own tensors, which code refers to directly."""
        kind = type(x)
        if kind in PLAIN:
            return x
        if id(x) in self._model.names:
            return self._adopted(x)
        if kind is tuple or kind is list:
            made = list(map(self.adopted, x))
            return x if all(map(operator.is_, made, x)) else kind(made)
        if kind is dict:
            return {k: self.adopted(v) for k, v in x.items()}
        return x

    def _adopted(self, tensor: Tensor) -> Proxy:
        name = self._model.names[id(tensor)]
        self.held.add(name)
        return self.attribute(name)

    def constant(self, tensor: Tensor) -> Proxy:
        """The proxy of a tensor that `forward` created from no input, or that is no attribute of the model.

        Raises:
            RuntimeError: it has no values.
        """
        if id(tensor) in self._model.names:  # one of the model's after all, that a closure holds
            return self._adopted(tensor)
        known = self._constants.get(id(tensor))
        if known is None or not equal(value_of(known), tensor):  # it was written to since its last use
            if tensor.is_meta:
                raise RuntimeError("a tensor computed outside the trace reached it")
            value = tensor.detach().clone()
            known = self._builder.attribute(self._additions.add_constant(value), NodeInfo(value))
            self._kept.append(tensor)
            self._model.share_memory_with(tensor)
            self._constants[id(tensor)] = known
        return known

    def are_constants(self, handles: Sequence[Proxy]) -> bool:
        """True where one of them shares memory with a constant."""
        storages = set().union(*(memory(value_of(h)) for h in handles)) if self._kept else set()
        return bool(storages) and any(not storages.isdisjoint(self._values.memory_of(t)) for t in self._kept)

    def keep_only(self, nodes: Container[fx.Node]) -> None:
        """Forget the proxies of erased nodes."""
        self._attributes = {k: p for k, p in self._attributes.items() if node_of(p) in nodes}
        self._constants = {k: p for k, p in self._constants.items() if node_of(p) in nodes}
