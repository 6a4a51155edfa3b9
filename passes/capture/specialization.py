"""Specialisation: Python needs a concrete value while a model is traced.

A value that depends on sizes is specialised: the trace goes on with the example's value, and the emitted network has a
guard on it. A guess (`Trust`, in `graph/node_info.py`) may not be specialised. A value that the example inputs alone
decide (`data_values.py`) is no guess: it gets a data guard.

Each is a `Condition` of the plan, unless the model's own code checks it: `assert h == 8`, `b, t, c = x.shape`.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from fxteleport.passes.capture.assertions import equality_insisted, must_be, own_check
from fxteleport.passes.capture.control_flow import Converts, DataDependent, Unhashable
from fxteleport.passes.capture.conversions import converting_function, gives_item
from fxteleport.passes.capture.data_decisions import DataDecisions
from fxteleport.passes.capture.data_values import Unknown
from fxteleport.passes.capture.input_facts import InputFacts
from fxteleport.passes.capture.proxy import Proxy, is_left, is_proxy, node_of, plain, trust_of, value_of
from fxteleport.passes.capture.size_texts import is_message
from fxteleport.passes.capture.trace_conditions import TraceConditions
from fxteleport.passes.capture.trace_guards import TraceGuards
from fxteleport.passes.capture.trace_settings import TraceSettings
from fxteleport.passes.graph.guards import expect
from fxteleport.passes.graph.node_info import Trust
from fxteleport.passes.graph.source_location import asking_frame, calling_line, written

T = TypeVar("T")
_LONGEST = 200
_FORMS = (torch.dtype, torch.device, torch.layout, torch.memory_format, str)


class Specialization:
    """Gives Python concrete values, and notes that the graph depends on them.

    Args:
        settings: whether a size may be hashed (which specialises it), and which functions convert sizes.
        data: the values that the example inputs alone decide.
    """

    def __init__(
        self,
        guards: TraceGuards,
        conditions: TraceConditions,
        inputs: InputFacts,
        settings: TraceSettings,
        data: DataDecisions,
    ) -> None:
        self._guards, self._conditions, self._inputs = guards, conditions, inputs
        self._hashes, self._converting, self._is_body = settings.hashes, settings.converting, settings.is_body
        self._data = data

    def known(self, handle: Proxy) -> Any:
        """The value of a proxy, for a branch.

        Raises:
            DataDependent: the value is a guess.
        """
        if trust_of(handle) and not is_left(handle):
            with contextlib.suppress(Unknown):
                return self._data.as_in_example(handle)
            raise DataDependent(f"the value of '{node_of(handle).name}' depends on the data")
        return value_of(handle)

    def specialize(self, handle: Proxy, value: T) -> T:
        """Give Python the value itself, and record that the graph depends on it."""
        held, node = self.known(handle), node_of(handle)
        if not isinstance(held, Tensor) or not held.is_meta:
            kind = "branch" if isinstance(held, bool) else "form" if isinstance(held, _FORMS) else "number"
            self._conditions.note(kind, f"{node.name} is {held!r}"[:_LONGEST], node)
        return value

    def forced(self, handle: Proxy, value: T) -> T:
        """Give Python a number, which is a constant of the graph from here on, with a guard."""
        if is_left(handle):
            return value
        if not self._guards.is_fixed(node_of(handle)):
            self.specialize(handle, value)
            self._guards.fix(expect, node_of(handle), value_of(handle))
        return self.specialize(handle, value)

    def is_type(self, handle: Proxy, other: Any) -> bool:
        """Python asks whether a type is this one: a network may be cast to those for which the answer is the same."""
        held, node = self.known(handle), node_of(handle)
        same = bool(held == plain(other))
        beside = plain(other) if not is_proxy(other) else node_of(other)
        if is_left(handle) or not isinstance(plain(other), torch.dtype):
            return same
        said = beside if isinstance(beside, torch.dtype) else f"that of {beside.name}"
        if equality_insisted(asking_frame()) is not same:
            self._conditions.note("form", f"{node.name} is {'' if same else 'not '}{said}", node)
        self._guards.compare(node, beside, same)
        return same

    def number(self, handle: Proxy, kind: Callable[[Any], T]) -> T:
        """A value as Python's own number.

        Raises:
            Converts: another trace can record the call.
            DataDependent: nothing is known of the value.
        """
        value = value_of(handle)
        if isinstance(value, Tensor) and value.is_meta:
            with contextlib.suppress(Unknown):
                return kind(self._data.as_in_example(handle))
            if gives_item(kind, value) and not self._is_body:
                self._leave_to_trace(kind)
            what = f"{kind.__name__}({node_of(handle).name}) depends on the data"
            raise DataDependent(f"{what}: a graph holds what .item() gives, but no number of Python's own")
        if kind in (int, float) and not (isinstance(value, Tensor) or self._is_body or is_left(handle)):
            self._leave_to_trace(kind)
        return self.forced(handle, kind(value))

    def length(self, handle: Proxy) -> int:
        """The length of a tensor along its first axis, given as a size, as Python's own number.

        Raises:
            Converts: another trace can record the call.
        """
        if not (self._is_body or is_left(handle)):
            self._leave_to_trace(len)
        return self.forced(handle, int(value_of(handle)))

    def _leave_to_trace(self, kind: Callable[..., Any]) -> None:
        function = converting_function(asking_frame(), kind)
        if function is not None and function not in self._converting:
            raise Converts(function)

    def hashed(self, handle: Proxy) -> int:
        """The hash of a size, which becomes a number.

        Raises:
            Unhashable: this trace keeps sizes symbolic.
        """
        if not (self._hashes or is_left(handle)):
            raise Unhashable(f"'{node_of(handle).name}' is a size, which this trace does not fix")
        return hash(self.forced(handle, value_of(handle)))

    def said(self, handle: Proxy) -> Any:
        """The value of a size or a setting for a text: a message, or a name that may decide something."""
        frame, value = asking_frame(), value_of(handle)
        if isinstance(value, torch.device) or (frame is not None and is_message(frame)):
            return value
        fixed = self.forced if isinstance(value, (int, float, torch.Size, torch.dtype)) else self.specialize
        return fixed(handle, value)

    def checked(self, handle: Proxy) -> bool:
        """The truth value for a branch on data: if one arm only raises, the trace takes the other.

        Else the branch is taken as in the example, if the example inputs alone decide it (how many edges are left).

        Raises:
            DataDependent: both arms go on, and weights or activations decide.
        """
        frame, value, node = asking_frame(), value_of(handle), node_of(handle)
        verdict = None if frame is None else must_be(frame)
        if verdict is None and trust_of(handle) is Trust.EXAMPLE and isinstance(value, bool):
            self.decided(handle, value)
            return value
        if verdict is None:
            with contextlib.suppress(Unknown):
                return bool(self._data.as_in_example(handle))
            raise DataDependent(f"'{node.name}' decides a branch, and depends on the data")
        self._guards.insist(node, verdict, written(calling_line()))
        return verdict

    def decided(self, handle: Proxy, value: bool | str | enum.Enum | None) -> None:
        """Guard a value by which Python may branch: it depends on sizes, or on whether something is None.

        Raises:
            DataDependent: whether it is None was seen to depend on the data.
        """
        if trust_of(handle) > (Trust.EXAMPLE if isinstance(value, bool) else Trust.GUESS):
            self.known(handle)
        node = node_of(handle)
        if not isinstance(value, bool) or own_check(asking_frame()) is not value:
            self._conditions.note("branch", f"{node.name} is {value!r}"[:_LONGEST], node)
        self._guards.expect(node, value)
