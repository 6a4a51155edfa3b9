"""The recorder: evaluates calls and appends them to the graph.

Each call is evaluated as it is recorded (`meta_eval.py`), and its node described (`graph/node_info.py`).
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.arguments import Lowering
from fxteleport.passes.capture.assertions import is_caught
from fxteleport.passes.capture.control_flow import CannotRun, DataDependent, WrittenConstant, cannot_run
from fxteleport.passes.capture.graph_builder import GraphBuilder
from fxteleport.passes.capture.identity import compares_variables
from fxteleport.passes.capture.input_facts import InputFacts
from fxteleport.passes.capture.lengths import Lengths
from fxteleport.passes.capture.meta_cache import Memo
from fxteleport.passes.capture.meta_values import to_meta
from fxteleport.passes.capture.observed import Observed
from fxteleport.passes.capture.opened import Opened, handles_in
from fxteleport.passes.capture.proxy import Proxy, TensorProxy, trust_of, value_of
from fxteleport.passes.capture.recording_mode import MAKING, unrecorded
from fxteleport.passes.capture.specialization import Specialization
from fxteleport.passes.capture.tensor_table import TensorTable
from fxteleport.passes.capture.trace_settings import TraceSettings
from fxteleport.passes.graph.contents import Contents
from fxteleport.passes.graph.guards import expect_error, guard
from fxteleport.passes.graph.node_info import Trust, info, update
from fxteleport.passes.graph.ops import call_of, leaves_of
from fxteleport.passes.graph.source_location import asking_frame
from fxteleport.passes.graph.storage import is_same, memory

_BARE = (bool, str, type(None), enum.Enum)
_FACTS = frozenset(
    {"dtype", "device", "layout", "is_cuda", "is_floating_point", "is_complex"}
)  # of a tensor, whatever the data
_TYPES = ("is_floating_point", "is_complex")  # those that the type of an input decides
_OF_THIS_RUN = (
    "is_contiguous",
    "type",
)  # how it lies in memory and what its class was called: another run's may differ
_GIVING_BACK = frozenset("contiguous to type type_as float double half bfloat16 cpu cuda expand_as".split())
_OF_TYPES = (torch.finfo, torch.iinfo)
# Arguments that say nothing about the shape of the result, whatever is known of them.
_SHAPELESS: dict[Any, str] = {F.scaled_dot_product_attention: "attn_mask", torch._grouped_mm: "offs"}


class Recorder:
    """Records calls."""

    def __init__(
        self,
        settings: TraceSettings,
        memo: Memo,
        builder: GraphBuilder,
        lowering: Lowering,
        tensors: TensorTable,
        values: Specialization,
        lengths: Lengths,
        inputs: InputFacts,
    ) -> None:
        self._settings, self._memo, self._builder, self._lowering = settings, memo, builder, lowering
        self._tensors, self._values, self._lengths, self._inputs = tensors, values, lengths, inputs
        self._autocast = _autocast()

    @unrecorded
    def record(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Evaluate a call and append its node; a result that needs no proxy (bool, str, None, enum) is returned."""
        if type in map(type, args) or type in map(type, kwargs.values()):  # torch takes `int` as a dtype
            args, kwargs = tuple(map(_dtype, args)), {k: _dtype(v) for k, v in kwargs.items()}

        def run(*given: Any) -> Any:
            if target is getattr and given[0][1] == "device":
                return self._settings.device, Trust.KNOWN  # meta tensors stand for tensors there
            value, trust = self._memo.run(op, target, *given)
            if target == "type" and isinstance(value, str):
                device = self._settings.device.type
                value = value.replace("meta.", "" if device == "cpu" else f"{device}.")
            return to_meta(value) if self._settings.makes_all and target in MAKING else value, trust

        try:
            seen = self.observe(run, f"'{getattr(target, '__name__', target)}'", args, kwargs)
        except CannotRun as error:
            if isinstance(error, TypeError) or not is_caught(asking_frame()):
                raise
            self._expect_error(op, target, args, kwargs)
            raise cannot_run(str(error), error.__cause__) from error.__cause__
        if target in _FACTS or (target is getattr and args[1] in _FACTS):
            seen = seen.worth(Trust.KNOWN)
        elif target in _SHAPELESS:
            shaping = {k: v for k, v in kwargs.items() if k != _SHAPELESS[target]}
            seen = seen.worth(max(map(trust_of, handles_in((args, shaping))), default=Trust.KNOWN))
        if not isinstance(seen.value, _BARE):
            return self.append(op, target, args, kwargs, seen)
        if isinstance(seen.value, bool):
            self._inputs.type |= getattr(target, "__name__", target) in _TYPES
        handles = handles_in((args, kwargs))
        if any(trust_of(h) is Trust.RAGGED for h in handles):
            seen = seen.worth(Trust.RAGGED)  # whether it is there depends on the data
        sizes = not any(isinstance(value_of(h), Tensor) and value_of(h).is_meta for h in handles)
        decides = any(map(self._lengths.is_unseen, handles)) or (isinstance(seen.value, bool) and sizes)
        decides = decides or target in _OF_THIS_RUN
        decides = decides or (isinstance(seen.value, str) and any(type(value_of(h)) in _OF_TYPES for h in handles))
        return self.commit(op, target, args, kwargs, seen, decides)

    def _expect_error(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Add a guard that a call fails, since the model's code catches the error.

        Raises:
            CannotRun: no graph can spell the call.
        """
        home = getattr(target, "__module__", None) or "torch"
        name = target if op == "call_method" else f"{home}.{getattr(target, '__name__', '')}"
        if op != "call_method" and getattr(sys.modules.get(home), getattr(target, "__name__", ""), None) is not target:
            raise CannotRun(f"'{name}' fails, and the model's code goes on")
        given = self._lowering.lower(args), self._lowering.lower(kwargs)
        guard(self._builder.graph, expect_error, *given, op == "call_method", name)

    def observe(
        self, run: Callable[..., tuple[Any, Trust]], what: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Observed:
        """Evaluate a call by `run`, which is given its arguments as values.

        Raises:
            CannotRun, DataDependent: it fails; the second where the data may decide that.
            WrittenConstant: it writes into a constant.
        """
        opened = Opened(args, kwargs)
        tensors = [(h, x := value_of(h), x._version, _form(x)) for h in opened.handles if type(h) is TensorProxy]
        versions = [t._version for t in opened.constants]
        before = [Contents(lent) for _, lent in opened.lent]
        try:
            value, trust = run(opened.args, opened.kwargs)
            mutated: list[Proxy] = [h for h, x, version, _ in tensors if x._version != version]
            if versions != [t._version for t in opened.constants] or self._tensors.are_constants(mutated):
                raise WrittenConstant("it writes into a tensor made from no input")
        except CannotRun as error:
            if any(map(trust_of, opened.handles)):  # the guessed arguments may not fit each other
                raise DataDependent(f"{what}: it depends on the data: {error}") from error.__cause__
            cause = error.__cause__  # of a TypeError, what is given decides, whatever its size
            raise cannot_run(f"{what}: {error}", cause if isinstance(cause, TypeError) else None) from cause
        except WrittenConstant as error:
            if self._settings.makes_all:
                if _forget_values(opened.handles[:1]):
                    return self.observe(run, what, args, kwargs)
                # the array came from a conversion that cannot be recorded
                raise DataDependent(f"{what}: {error}, which the graph does not make") from None
            raise
        for _, x, _, form in tensors if mutated else ():
            if _form(x) != form:
                self._builder.reshape_in_place(x, form)
        written = [mine for (mine, _), held in zip(opened.lent, before, strict=True) if held.changed()]
        if given := max(map(trust_of, opened.handles), default=Trust.KNOWN):
            trust = max(trust, min(given, Trust.GUESS))
        return Observed(value, trust, mutated, written)

    def commit(
        self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], seen: Observed, decides: bool
    ) -> Any:
        """Append the node of an evaluated call; a result that needs no proxy (None, bool, str, enum) is returned as is.

        Code branches on such a value: where other inputs may give another one, it gets a guard.

        Args:
            decides: other sizes may give another value.

        Raises:
            DataDependent: the data decides it.
        """
        if not isinstance(seen.value, _BARE):
            return self.append(op, target, args, kwargs, seen)
        if not (seen.trust or decides or seen.mutated or seen.written):
            return seen.value
        handle = self.append(op, target, args, kwargs, seen)
        if seen.trust and isinstance(seen.value, bool):
            return self._values.checked(handle)
        if seen.trust or decides:
            self._values.decided(handle, seen.value)
        return seen.value

    def append(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], seen: Observed) -> Proxy:
        """Append the node of an evaluated call, and return its proxy.

        Raises:
            RuntimeError: an argument cannot be held by a graph, or the call is made under another autocast.
        """
        if _autocast() != self._autocast:
            raise RuntimeError("it runs under a torch.autocast of its own, which a graph does not hold")
        if seen.mutated or op == "call_module" or target in _GIVING_BACK:
            _reject_same(args, seen.value)
        if isinstance(seen.value, np.generic):
            seen = replace(seen, value=seen.value.item())
        lower = self._lowering.lower
        given = map(_as_tensor, args) if target in MAKING else args
        return self._builder.call(op, target, lower(tuple(given)), lower(kwargs) if kwargs else {}, seen)


def _reject_same(args: tuple[Any, ...], value: Any) -> None:
    """Raise RuntimeError where a call gives back its first argument, which no proxy is, and code may ask for that."""
    first = args[0] if args and type(args[0]) is TensorProxy else None
    if first is not None and is_same(value_of(first), value):
        frame = asking_frame()
        if frame is not None and compares_variables(frame.f_code):
            raise RuntimeError(
                "its forward asks whether variables are one object, and a call may give back what it gets"
            )


def _as_tensor(x: Any) -> Any:
    """An array that becomes an argument, as a tensor; anything else as it is."""
    return torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) and x.dtype.kind in "fc" else x


def _forget_values(handles: Sequence[Proxy]) -> bool:
    """Make the values of created tensors (integers, a mask) unknown: a value that depends on an input is written there.

    Returns:
        False where the graph does not create the tensor, or it has views.
    """
    for handle in handles:
        node, value = proxy.node_of(handle), value_of(handle)
        if not isinstance(value, Tensor) or value.is_meta or node.target not in MAKING:
            return False
        held = (x for other in node.graph.nodes if other is not node for x in leaves_of(info(other).value))
        if any(isinstance(x, Tensor) and not memory(x).isdisjoint(memory(value)) for x in held):
            return False
        update(node, value=value.to("meta"))
        proxy.rebind(handle, node, info(node).value)
    return bool(handles)


def record_left_over(op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record a call of a proxy whose trace has ended, in the running trace; without one, run it."""
    trace = proxy.find_trace((args, kwargs))
    if trace is not None:
        return trace.record(op, target, args, kwargs)
    return proxy.past(call_of(op, target), args, kwargs)


_DTYPES = {bool: torch.bool, int: torch.int64, float: torch.float64, complex: torch.complex128}


def _dtype(x: Any) -> Any:
    """The dtype that torch takes a Python type for, since a graph's code cannot spell the type."""
    return _DTYPES.get(x, x) if type(x) is type else x


def _form(x: Tensor) -> Any:
    return (x.shape, x.stride(), x.storage_offset()) if x.layout is torch.strided else None


def _autocast() -> tuple[torch.dtype | None, ...]:
    """The dtypes to which autocast casts on the CPU and on CUDA; None where it is off."""
    cpu, cuda = torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
    return torch.get_autocast_dtype("cpu") if cpu else None, torch.get_autocast_dtype("cuda") if cuda else None
