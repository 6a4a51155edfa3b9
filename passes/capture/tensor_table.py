"""The tensors that a graph refers to by name: parameters and buffers of the model, and constants of the trace."""

from __future__ import annotations

from collections.abc import Container, Sequence

from torch import Tensor, fx

from fxteleport.passes.capture.additions import Additions
from fxteleport.passes.capture.graph_builder import GraphBuilder
from fxteleport.passes.capture.meta_values import MetaValues
from fxteleport.passes.capture.model_tensors import ModelTensors
from fxteleport.passes.capture.patching import unrecorded
from fxteleport.passes.capture.proxy import Proxy, node_of, value_of
from fxteleport.passes.graph.node_info import NodeInfo
from fxteleport.passes.graph.source_location import calling_line
from fxteleport.passes.graph.storage import equal, memory


class TensorTable:
    """Finds tensors by identity; each has one `get_attr` node for all its names and uses."""

    def __init__(self, model: ModelTensors, builder: GraphBuilder, additions: Additions, values: MetaValues) -> None:
        self._model, self._builder, self._additions, self._values = model, builder, additions, values
        self._attributes: dict[str, Proxy] = {}
        self._constants: dict[int, Proxy] = {}
        self._held: list[Tensor] = []  # those whose id is in use above

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

    def constant(self, tensor: Tensor) -> Proxy:
        """The proxy of a tensor that `forward` made from no input, or that is no attribute of the model.

        Raises:
            RuntimeError: it has no values.
        """
        if id(tensor) in self._model.names:  # one of the model's after all, that a closure holds
            return self.attribute(self._model.names[id(tensor)])
        known = self._constants.get(id(tensor))
        if known is None or not equal(value_of(known), tensor):  # it was written to since its last use
            if tensor.is_meta:
                raise RuntimeError("a tensor computed outside the trace reached it")
            value = tensor.detach().clone()
            known = self._builder.attribute(self._additions.add_constant(value), NodeInfo(value))
            self._held.append(tensor)
            self._model.share_memory_with(tensor)
            self._constants[id(tensor)] = known
        return known

    def are_constants(self, handles: Sequence[Proxy]) -> bool:
        """True where one of them shares memory with a constant."""
        storages = set().union(*(memory(value_of(h)) for h in handles)) if self._held else set()
        return bool(storages) and any(not storages.isdisjoint(self._values.memory_of(t)) for t in self._held)

    def keep_only(self, nodes: Container[fx.Node]) -> None:
        """Forget proxies of other nodes, which are erased."""
        self._attributes = {k: p for k, p in self._attributes.items() if node_of(p) in nodes}
        self._constants = {k: p for k, p in self._constants.items() if node_of(p) in nodes}
