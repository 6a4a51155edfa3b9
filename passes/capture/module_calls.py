"""Calls of modules: which are recorded as one node, which are traced, and what happens where tracing fails."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch import nn

from fxteleport.passes.capture.attribute_journal import Writes
from fxteleport.passes.capture.call_stack import CallStack
from fxteleport.passes.capture.control_flow import OF_THE_MODEL, DataDependent, Stores, first_line, raise_if_hashed
from fxteleport.passes.capture.deciding_calls import DecidingCalls
from fxteleport.passes.capture.function_calls import OUTSIDE, FunctionCalls
from fxteleport.passes.capture.history import History
from fxteleport.passes.capture.layer_calls import LayerCalls
from fxteleport.passes.capture.leaf_bodies import LeafBodies
from fxteleport.passes.capture.leaf_calls import LeafCalls
from fxteleport.passes.capture.leaf_table import LeafTable
from fxteleport.passes.capture.side_effects import SideEffects
from fxteleport.passes.capture.trace_settings import TraceSettings
from fxteleport.passes.capture.training_mode import Modes, depends
from fxteleport.passes.errors import OpaqueModuleWarning
from fxteleport.passes.graph.leaf_modules import (
    changes_gradients,
    is_compiled,
    is_leaf,
    is_mode_dependent,
    is_nested_encoder,
    reads_training,
    watched,
)
from fxteleport.passes.graph.module_clone import path_of


def _takes(forward: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    """True where a forward takes these arguments."""
    try:
        inspect.signature(forward).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


class ModuleCalls:
    """Decides for each call of a module, or of a module's method, whether it is traced or recorded as one node.

    Its parts record: `leaves` and `calls` record leaves, `layers` torch's layers, `functions` opaque methods; `history`
    undoes what a failed attempt has recorded.
    """

    def __init__(
        self,
        settings: TraceSettings,
        deciding: DecidingCalls,
        leaves: LeafTable,
        calls: LeafCalls,
        layers: LayerCalls,
        functions: FunctionCalls,
        bodies: LeafBodies,
        modes: Modes,
        effects: SideEffects,
        writes: Writes,
        stack: CallStack,
        history: History,
    ) -> None:
        self._deciding = deciding
        self._settings, self._leaves, self._calls, self._layers = settings, leaves, calls, layers
        self._functions, self._bodies, self._modes = functions, bodies, modes
        self._effects, self._writes, self._stack, self._history = effects, writes, stack, history

    def module(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record a call of a module as one node, or trace its forward; where that fails, keep it whole."""
        path = path_of(module)
        real = self._leaves.real(path)
        if is_compiled(real):
            return module._modules["_orig_mod"](*args, **kwargs)  # type: ignore[misc]
        if changes_gradients(real) and not self._settings.is_body and not (path and is_leaf(real)):
            return self._hooked(path, args, kwargs)
        is_set = bool(self._modes.changed) and self._modes.is_set(path_of(m) for m in module.modules())
        if path and is_leaf(real) and not (is_set and reads_training(type(real))):  # type: ignore[arg-type]
            self._writes.called(module)
            return (self._layers.watched if watched(real) else self._layers.call)(module, forward, args, kwargs)
        if path and _is_padded(real, args, kwargs) and self._layers.is_as_planned(module):
            self._writes.called(module)
            return self._calls.call(path, args, kwargs)
        if path and is_mode_dependent(real) and not is_set:
            with contextlib.suppress(Stores):
                return self._mode_dependent(module, args, kwargs)
        return self._traced(module, forward, args, kwargs, may_fall_back=bool(path) and not is_set)

    def _traced(
        self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any, may_fall_back: bool
    ) -> Any:
        """Trace a module's forward; where that fails, undo what was recorded, and keep the module whole."""
        path, real = path_of(module), self._leaves.real(path_of(module))
        self._modes.called(module, args, kwargs)
        asked = dict(self._modes.asked)
        with self._stack.inside(module):
            mark = self._history.mark((args, kwargs))
            try:
                self._effects.reject_stateful(path)
                with self._effects.call():
                    out = forward(*args, **kwargs)
                self._effects.reject_state(module)
                return out
            except OF_THE_MODEL:
                raise
            except Exception as error:
                raise_if_hashed(error)
                if isinstance(error, TypeError) and not _takes(module.forward, args, kwargs):
                    raise  # it fails on all data, and the calling code may expect the error
                self._deciding.watch(error)
                if not may_fall_back or any(map(watched, real.modules())):  # a leaf would run the hooks itself
                    raise
                if self._writes.changed(module.modules(), mark.writes):  # and as it was at planning
                    raise
                self._modes.asked = asked
                self._history.undo(mark)
                return self._kept_whole(path, f"{type(error).__name__}: {first_line(error)}", args, kwargs)

    def _hooked(self, path: str, args: Any, kwargs: Any) -> Any:
        """Keep a module whole whose backward hooks may change gradients: they run when the module is called."""
        reason = "it has backward hooks, which may change its gradients"
        if not path:
            raise RuntimeError(reason)
        return self._kept_whole(path, reason, args, kwargs)

    def _kept_whole(self, path: str, reason: str, args: Any, kwargs: Any) -> Any:
        """Record a call of a module that is kept whole: an opaque leaf, in which everything is pinned."""
        self._leaves.keep_whole(path, reason)
        warnings.warn(f"module '{path}' is kept whole: {reason}", OpaqueModuleWarning, stacklevel=3)
        if depends(self._leaves.real(path)):
            self._modes.asked[path] = self._modes.at_start(path)
        with self._effects.whole_call():
            return self._calls.call(path, args, kwargs)

    def _mode_dependent(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Record a call of a module without tensors that reads its mode: one node, with a body for each mode.

        Raises:
            Stores: its forward writes to its attributes, or has done so in the run before.
        """
        path = path_of(module)
        if any(path == where for where, _ in self._settings.found):
            raise Stores(f"'{path}' stores what the next run may read")
        real = self._leaves.real(path)
        planned = self._layers.is_as_planned(module)
        if self._leaves.reach.of(real):
            if not planned:
                raise RuntimeError(f"'{path}' has other settings than at planning, and {OUTSIDE}")
            self._leaves.keep_whole(path, OUTSIDE)
            return self._calls.call(path, args, kwargs)
        if not planned:
            return self._layers.as_it_is(module, args, kwargs)
        try:
            with self._effects.call():
                graphs = self._bodies.known(path, real, args, kwargs, (False, True))
        except DataDependent as error:
            return self._kept_whole(path, first_line(error), args, kwargs)
        out = self._calls.call(path, args, kwargs)
        self._calls.note_bodies(out, graphs)
        return out

    def method(self, module: nn.Module, fn: FunctionType, args: Any, kwargs: Any) -> Any:
        """Record a call of a method other than `forward`."""
        return self._deciding.method(module, fn, args, kwargs)


def _is_padded(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """True for a call of an encoder with a padding mask and no other."""
    if not is_nested_encoder(module):
        return False
    given = dict(zip(("src", "mask", "src_key_padding_mask"), args, strict=False)) | kwargs
    return given.get("src_key_padding_mask") is not None and given.get("mask") is None
