"""Calls of functions that become leaves: custom autograd functions, methods that depend on the data, dropouts."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.additions import Additions
from fxteleport.passes.capture.call_stack import CallStack
from fxteleport.passes.capture.control_flow import DataDependent
from fxteleport.passes.capture.leaf_bodies import LeafBodies, value_of_body
from fxteleport.passes.capture.leaf_calls import LeafCalls
from fxteleport.passes.capture.leaf_table import LeafTable
from fxteleport.passes.capture.meta_cache import Memo
from fxteleport.passes.capture.observed import Observed
from fxteleport.passes.capture.opaque_leaves import Applied, GradientHook, Registered
from fxteleport.passes.capture.plain_functions import PlainFunction, gives_constants
from fxteleport.passes.capture.recorder import Recorder
from fxteleport.passes.capture.recording_mode import unrecorded
from fxteleport.passes.capture.trace_guards import TraceGuards
from fxteleport.passes.capture.trace_settings import TraceSettings
from fxteleport.passes.errors import OpaqueModuleWarning
from fxteleport.passes.graph.leaf_modules import DROPOUT
from fxteleport.passes.graph.module_clone import path_of
from fxteleport.passes.graph.node_info import Trust, update
from fxteleport.passes.graph.ops import leaves_of
from fxteleport.passes.graph.structure import is_settings, is_spelt

OUTSIDE = "its code can read tensors of other modules"


class FunctionCalls:
    """Records calls of functions as leaves.

    Attributes:
        backwards: call of a custom autograd function -> the graph of its backward, or why there is none.
    """

    def __init__(
        self,
        settings: TraceSettings,
        recorder: Recorder,
        leaves: LeafTable,
        calls: LeafCalls,
        bodies: LeafBodies,
        additions: Additions,
        stack: CallStack,
        memo: Memo,
        guards: TraceGuards,
    ) -> None:
        self._guards = guards
        self.backwards: dict[fx.Node, fx.Graph | str] = {}
        self._settings, self._recorder, self._memo, self._stack = settings, recorder, memo, stack
        self._leaves, self._calls, self._bodies, self._additions = leaves, calls, bodies, additions

    def keeps(self, function: type[torch.autograd.Function], args: tuple[Any, ...], model: nn.Module) -> bool:
        """True for a user's autograd function of tensors and plain values.

        A function that is given code to run (torch's checkpoint and its like) is traced into, as that code is.

        Args:
            model: the traced module; in the body of a call it may be the function itself.
        """
        if function.__module__.startswith("torch."):
            return False
        if self._settings.is_body:
            if not isinstance(model, Applied):
                raise DataDependent(f"it applies {function.__name__}, whose backward is its own")
            return False
        return all(proxy.is_proxy(x) or isinstance(x, Tensor) or is_spelt(x) for x in leaves_of(args))

    def custom(self, function: type[torch.autograd.Function], args: tuple[Any, ...]) -> Any:
        """Record a call of a custom autograd function, which keeps its backward."""
        path = self._additions.free_path(f"{self._stack.path}.{function.__name__}")
        leaf = Applied(function)
        graphs: list[fx.Graph] = []
        reached = self._leaves.reach.of(function)
        if reached:
            self._leaves.reached[path] = reached
            self._leaves.opaque[path] = OUTSIDE

        def run(inputs: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, Trust]:
            graphs.extend([] if reached else self._bodies.known(path, leaf, args, {}, (False,)))
            return value_of_body(graphs[0]) if graphs else self._memo.run("call_module", leaf, inputs, keywords)

        out = self._calls.call_added(path, leaf, args, {}, run)
        self._calls.note_bodies(out, graphs)
        if graphs and proxy.is_proxy(out):
            self.backwards[proxy.node_of(out)] = self._bodies.backward(function, args)
        return out

    @unrecorded
    def method(self, module: nn.Module, method: FunctionType, args: Any, kwargs: Any, why: str) -> Any:
        """Record a call of a method as an opaque leaf, which may read the module's settings, but not its weights.

        Where it reads weights on other data, the emitted network raises. In the original class it would read them, so
        in `mode="weights"` they are pinned.

        Raises:
            CannotRun: it reads the weights on the example.
        """
        owner = path_of(module)
        path = self._additions.free_path(f"{owner}.{method.__name__}")
        leaf = self._leaves.of_method(owner, method)
        out = self._calls.call_added(path, leaf, args, kwargs, decides=True)
        self._leaves.keep_method_whole(path, self._leaves.real(owner), method, why)
        warnings.warn(f"method '{path}' is kept whole: {why}", OpaqueModuleWarning, stacklevel=2)
        return out

    @unrecorded
    def plain(self, function: FunctionType, args: Any, kwargs: Any, why: str) -> Any:
        """Record a call of a plain function as an opaque leaf.

        Raises:
            CannotRun, DataDependent: it does not run on its own, or its result decides a branch.
            RuntimeError: it can read tensors of the model.
        """
        if self._leaves.reach.of(function):
            raise RuntimeError(OUTSIDE)
        if gives_constants(function):
            raise DataDependent(f"'{function.__name__}' gives a plain value on some data, and a tensor on others")
        path = self._additions.free_path(f"{self._stack.path}.function_{function.__name__}")
        out: Any = None
        settings: dict[Any, Any] = {key: x for key, x in (*enumerate(args), *kwargs.items()) if is_settings(x)}
        args = tuple(x for i, x in enumerate(args) if i not in settings)
        kwargs = {name: x for name, x in kwargs.items() if name not in settings}
        before = copy.deepcopy(list(map(vars, settings.values())))
        try:
            out = self._calls.call_added(path, PlainFunction(function, settings), args, kwargs, decides=True)
        finally:
            changed = [vars(x) for x in settings.values()] != before
            for x, held in zip(settings.values(), before, strict=True) if changed else ():
                vars(x).clear()
                vars(x).update(held)
            if not proxy.is_proxy(out) or proxy.trust_of(out) is Trust.RAGGED:
                self._leaves.forget(path)
        if changed:
            self._leaves.forget(path)
            raise DataDependent(f"'{function.__name__}' changes an object that it is given")
        if path not in self._leaves.twins:
            raise DataDependent(f"what '{function.__name__}' gives depends on the data, and decides")
        self._guards.insist_on_form(proxy.node_of(out))
        self._leaves.opaque[path] = why
        warnings.warn(f"function '{path}' is kept whole: {why}", OpaqueModuleWarning, stacklevel=2)
        return out

    @unrecorded
    def hook_gradient(self, tensor: proxy.Proxy, hook: Callable[..., Any]) -> Registered:
        """Record that forward registers a hook on a tensor's gradient, which it may change."""
        path = self._leaves.add_like(f"{self._stack.path}.gradient_hook", GradientHook(hook))
        node = proxy.node_of(self._recorder.append("call_module", path, (tensor,), {}, Observed(None)))
        update(node, has_effect=True)
        return Registered(node)

    @unrecorded
    def dropout(self, func: Any, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        """Record `F.dropout(x, p, self.training)` as a leaf, so that it drops again after `train()`.

        The trace of train mode shows whether it drops there (`train_graph.settle_dropouts`).
        """
        if p == 0.0:
            training = False
        if training or p == 0.0 or self._settings.is_body:
            return self._recorder.record("call_function", func, (input, p, training, inplace), {})
        path = self._leaves.add_like(f"{self._stack.path}.{func.__name__}", DROPOUT[func](p, inplace).eval())
        written = [input] if inplace and proxy.is_proxy(input) else []  # in train mode
        out = self._recorder.append("call_module", path, (input,), {}, Observed(proxy.plain(input), mutated=written))
        update(proxy.node_of(out), is_idle_dropout=True)
        return out
