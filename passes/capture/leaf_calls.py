"""Calls of leaves, each of which is recorded as one node.

Leaves are torch's own layers, modules without tensors that read `self.training`, modules that cannot be traced
(opaque), custom autograd functions, and modules that capture adds (a dropout for `F.dropout`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from fxteleport.passes.capture.leaf_table import WHOLE, LeafTable
from fxteleport.passes.capture.meta_cache import Memo
from fxteleport.passes.capture.proxy import is_proxy, node_of
from fxteleport.passes.capture.recorder import Recorder
from fxteleport.passes.capture.recording_mode import unrecorded
from fxteleport.passes.graph.leaf_modules import DRAWING, DROPOUT
from fxteleport.passes.graph.node_info import Trust


class LeafCalls:
    """Records calls of leaves.

    Attributes:
        bodies: call of a leaf -> the graphs of its body, one for each mode, where they are known.
    """

    def __init__(self, recorder: Recorder, leaves: LeafTable, memo: Memo) -> None:
        self.bodies: dict[fx.Node, tuple[fx.Graph, ...]] = {}
        self._recorder, self._leaves, self._memo = recorder, leaves, memo

    @unrecorded
    def call(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call of one of the model's modules, or of the model itself (`WHOLE`)."""
        twin = self._leaves.twin(path)

        def real(*inputs: Any, **keywords: Any) -> Any:
            return self._leaves.run(path, inputs, keywords)

        def run(inputs: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, Trust]:
            return self._memo.run("call_module", twin, inputs, keywords, real)

        what = f"'{path}' ({type(self._leaves.real(path)).__name__})"
        with self._leaves.watched(path):
            seen = self._recorder.observe(run, what, args, kwargs)
        if path == WHOLE:
            return self._recorder.append("call_module", path, args, kwargs, seen)
        return self._recorder.commit("call_module", path, args, kwargs, seen, path in self._leaves.opaque)

    @unrecorded
    def call_added(
        self,
        path: str,
        leaf: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        run: Callable[..., tuple[Any, Trust]] | None = None,
        decides: bool = False,
    ) -> Any:
        """Record a call of an added leaf, which is not the model's own.

        Args:
            path: a free path, which the leaf gets.
            run: evaluates the call in place of the leaf, given the arguments' values.
            decides: its result may depend on sizes.
        """

        def plainly(inputs: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, Trust]:
            return self._memo.run("call_module", leaf, inputs, keywords)

        seen = self._recorder.observe(run or plainly, f"'{path}'", args, kwargs)
        self._leaves.add(path, leaf)
        decides = decides or path in self._leaves.opaque
        return self._recorder.commit("call_module", path, args, kwargs, seen, decides)

    def draws(self, node: fx.Node) -> bool:
        """True for a call that draws random numbers in train mode."""
        if node.op != "call_module":
            return node.target in DROPOUT
        leaf = self._leaves.twin(str(node.target))
        return node in self.bodies or any(isinstance(m, DRAWING) for m in leaf.modules())

    def note_bodies(self, out: Any, graphs: list[fx.Graph]) -> None:
        """Note the bodies of the call that returned `out`."""
        if graphs and is_proxy(out):
            self.bodies[node_of(out)] = tuple(graphs)
