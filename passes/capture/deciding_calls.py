"""Calls of methods and of plain functions: traced, or kept whole where data decide a branch in them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.attribute_journal import Writes
from fxteleport.passes.capture.control_flow import (
    OF_THE_MODEL,
    CannotRun,
    DataDependent,
    DecidesInFunction,
    first_line,
    raise_if_hashed,
)
from fxteleport.passes.capture.data_decisions import DataDecisions
from fxteleport.passes.capture.function_calls import FunctionCalls
from fxteleport.passes.capture.history import History, Mark
from fxteleport.passes.capture.leaf_table import LeafTable
from fxteleport.passes.capture.plain_functions import can_be_held, deciding_functions
from fxteleport.passes.capture.side_effects import SideEffects
from fxteleport.passes.capture.trace_settings import TraceSettings
from fxteleport.passes.graph.leaf_modules import watched
from fxteleport.passes.graph.ops import leaves_of


class DecidingCalls:
    """Decides on such calls: `functions` records those that are kept whole, `history` undoes a failed trace."""

    def __init__(
        self,
        settings: TraceSettings,
        data: DataDecisions,
        leaves: LeafTable,
        functions: FunctionCalls,
        effects: SideEffects,
        writes: Writes,
        history: History,
    ) -> None:
        self._settings, self._data, self._leaves = settings, data, leaves
        self._functions, self._effects, self._writes, self._history = functions, effects, writes, history
        self._cannot_be_whole: set[FunctionType] = set()

    def method(self, module: nn.Module, fn: FunctionType, args: Any, kwargs: Any) -> Any:
        """Trace a call of a method other than `forward`, or keep it whole where data decide a branch in it."""

        def may_be_whole(mark: Mark) -> bool:
            if any(map(watched, module.modules())):
                return False
            parts, names = self._leaves.reach.parts_of_method(module, fn)
            return not self._writes.changed(parts, mark.writes, module, names)

        run = functools.partial(fn, module, *args, **kwargs)
        keep = functools.partial(self._functions.method, module, fn, args, kwargs)
        return self._traced_or_whole(fn, run, keep, may_be_whole, (args, kwargs))

    def function(self, fn: FunctionType, own: FunctionType, args: Any, kwargs: Any) -> Any:
        """Trace a call of a plain function, or keep it whole where data decide a branch in it."""
        if self._settings.is_body:
            return own(*args, **kwargs)
        run, keep = functools.partial(own, *args, **kwargs), functools.partial(self._functions.plain, fn, args, kwargs)
        return self._traced_or_whole(fn, run, keep, lambda _: can_be_held((args, kwargs)), (args, kwargs))

    def _traced_or_whole(
        self,
        fn: FunctionType,
        run: Callable[[], Any],
        keep: Callable[[str], Any],
        may_be_whole: Callable[[Mark], bool],
        arguments: Any,
    ) -> Any:
        """Trace a call; where data decide a branch in it, record it as one node.

        A call on data alone is recorded as one node also where the trace took the example's branch: as a node it is
        right on all data.

        Args:
            keep: records the call as one node, given the reason. It raises where that is not possible.
        """
        mark = self._history.mark(arguments)
        fixed, error = self._data.fixed, None
        try:
            with self._effects.call():
                out = run()
            if self._data.fixed == fixed or fn in self._cannot_be_whole or not self._data.are_data(arguments):
                return out
            why = "what it does is decided by the data that it is given"
        except OF_THE_MODEL:
            raise
        except Exception as caught:
            raise_if_hashed(caught)
            self.watch(caught)
            out, error, why = None, caught, first_line(caught)
        if fn in self._cannot_be_whole or proxy.find_trace(arguments) is None or not may_be_whole(mark):
            if error is None:
                return out
            raise error
        self._history.undo(mark)
        try:
            with self._effects.whole_call():
                whole = keep(why)
            if error is not None or _holds_tensors_alone(whole):
                return whole
            self._leaves.forget(str(proxy.node_of(whole).target))  # numbers of the data may decide what follows
        except (CannotRun, DataDependent, RuntimeError):  # it needs weights, or its result decides a branch
            if error is not None:
                raise error from None
        self._cannot_be_whole.add(fn)
        self._history.undo(mark)
        return self._traced_or_whole(fn, run, keep, may_be_whole, arguments)

    def watch(self, error: Exception) -> None:
        """Raise DecidesInFunction where an error comes from plain functions whose calls the trace does not see yet."""
        if isinstance(error, DataDependent) and not (self._settings.is_body or self._settings.training):
            new = set(deciding_functions(error)) - self._settings.functions
            if new:
                raise DecidesInFunction(new) from error


def _holds_tensors_alone(x: Any) -> bool:
    return proxy.is_proxy(x) and all(isinstance(v, Tensor) for v in leaves_of(proxy.value_of(x)))
