"""Calls of ATen overloads (`torch.ops.aten.relu.default(x)`) are recorded as the functions that they are called by."""

from __future__ import annotations

import functools
from typing import Any

from torch._ops import OpOverload, OpOverloadPacket

from fxteleport.passes.capture.control_flow import CannotRun
from fxteleport.passes.capture.protocols import Trace
from fxteleport.passes.capture.recording_mode import run_by
from fxteleport.passes.graph.aten import is_aten, positional, twin_of
from fxteleport.passes.graph.aten_twins import Beside

OPERATOR = (OpOverload, OpOverloadPacket)


def call(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record a call of an operator as its twin, or as the operator where it has none."""
    itself = functools.partial(trace.record, "call_function", operator, args, kwargs)
    twin = twin_of(operator) if is_aten(operator) else None
    if twin is None:
        return itself()
    try:
        args, kwargs = positional(args, kwargs)
        if twin.op == "call_method":
            return trace.record("call_method", twin.target, args, kwargs)
        if twin.op == "call_function":
            return trace.call_function(twin.target, args, kwargs)
        with run_by(trace):  # while the call of the operator is recorded, nothing else is
            out = twin.target(*args, **kwargs)
    except (CannotRun, TypeError, IndexError):  # a form of the call that the twin does not take, or no call at all
        return itself()
    if isinstance(out, Beside):
        out.others = out.others or itself
    return out
