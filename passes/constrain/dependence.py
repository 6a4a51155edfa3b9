"""Dependence: whether a node's value depends on the inputs, on parameters alone, or on neither.

Buffers and constants are no weights: what is computed from them alone is not wrapped. A buffer that shapes a weight
(the mask of a pruned one, the vectors of spectral norm) is a constant. So is a table of several axes that is not only
added to data (the sines of rotary attention). A buffer with one axis (a gain) has a CoB.
"""

from __future__ import annotations

import enum
from collections.abc import Collection

from torch import fx

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.ops import holds_tensor, name_of


class Source(enum.IntEnum):
    """What a value depends on; a larger one includes the smaller ones."""

    FIXED = 0  # buffers, constants and sizes
    WEIGHTS = 1
    DATA = 2


def parameters_of(captured: Captured) -> frozenset[str]:
    """The names of the model's parameters."""
    parts = captured.parts.items()
    return frozenset(f"{path}.{name}" if path else name for path, part in parts for name in part._parameters)


class Dependence:
    """What the nodes of some graphs depend on.

    Attributes:
        shaping: the buffers from which, with parameters, weights are computed.
        used: the buffers that another operation than a sum combines with data.

    Args:
        parameters: the names of the model's parameters; any other name of a `get_attr` node is a buffer's.
    """

    def __init__(self, parameters: Collection[str]) -> None:
        self.shaping: set[str] = set()
        self.used: set[str] = set()
        self._parameters = parameters
        self._sources: dict[fx.Node, Source] = {}
        self._buffers: dict[fx.Node, frozenset[str]] = {}  # fixed node -> the buffers that it is computed from

    def of(self, node: fx.Node) -> Source:
        """What a node's value depends on."""
        return self._sources.get(node, Source.DATA)

    def add(self, graph: fx.Graph, with_weights: Collection[str] = ()) -> None:
        """Add the nodes of a graph; calls of the modules named `with_weights` read parameters of their own."""
        sources = self._sources
        for node in graph.nodes:
            inputs = node.all_input_nodes
            fixed = [i for i in inputs if sources[i] is Source.FIXED]
            if not holds_tensor(info(node).value):
                source = Source.FIXED  # a number has no CoB
            elif node.op == "placeholder":
                source = Source.DATA
            elif node.op == "get_attr":
                source = Source.WEIGHTS if node.target in self._parameters else Source.FIXED
                self._buffers[node] = frozenset({str(node.target)})
            else:
                own = Source.WEIGHTS if node.op == "call_module" and node.target in with_weights else Source.FIXED
                source = max([own, *(sources[i] for i in inputs)])
            sources[node] = source
            if node.op == "get_attr" or not (fixed or source is Source.FIXED):
                continue
            read = frozenset().union(*(self._buffers.get(i, frozenset()) for i in fixed))
            if source is Source.FIXED:
                self._buffers[node] = read
            elif source is Source.WEIGHTS:
                self.shaping |= read
            elif name_of(node.target) not in _SUMS:
                self.used |= read


_SUMS = frozenset("add sub subtract rsub iadd isub".split())
