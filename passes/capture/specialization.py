"""Decisions: what Python wants to know of a value while a model is traced.

What it decides from a size is part of the trace: it is recorded as specialised, and a guard makes the emitted network
insist on it. From a guess (`evaluate.Trust`) nothing may be decided.

Each is a `Condition` of the plan, but for what the model's own code insists on: `assert h == 8`, `b, t, c = x.shape`.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxteleport.passes.capture import meta_eval
from fxteleport.passes.capture.assertions import insists, must_be, own_check, unpacks
from fxteleport.passes.capture.proxy import NumberProxy, Proxy, SettledProxy
from fxteleport.passes.capture.size_texts import is_message, will_be_message
from fxteleport.passes.capture.traced_modules import path_of
from fxteleport.passes.graph.conditions import Condition
from fxteleport.passes.graph.guards import expect, expect_keys, expect_length, guard, insist
from fxteleport.passes.graph.node_info import Trust, info
from fxteleport.passes.graph.source_location import Line, asking_frame, calling_line, quoted, written

T = TypeVar("T")
_LONGEST = 200
_FORMS = (torch.dtype, torch.device, torch.layout, torch.memory_format, str)


class Decisions:
    """The graph under construction, and what is specialised in it.

    Attributes:
        hashes: a size may be hashed; it is a number then.
        opaque: paths of what is kept whole since it could not be traced, and why.
        finished: the trace is over. A proxy that Python still holds is its value.
        conditions: what the trace rests on, each with the node that was asked, if any.
    """

    def __init__(self, hashes: bool = False) -> None:
        self.hashes = hashes
        self.finished = False
        self.asks_rank = self.asks_type = False  # Python asked for a tensor's number of axes, or type
        self.rank_line: Line | None = None  # where it asked for the first, and would go on with another
        self.rank_node: fx.Node | None = None  # the last node then
        self.graph = fx.Graph()
        self.numbers: list[NumberProxy] = []
        self.opaque: dict[str, str] = {}
        self.conditions: dict[Condition, fx.Node | None] = {}
        self._guards: dict[fx.Node, fx.Node] = {}  # the guard of a node's value
        self.stack: list[nn.Module] = []  # the modules whose forward is running, outermost first

    def end(self) -> None:
        """The trace is over: what Python still holds of it is plain values."""
        self.finished = True
        for number in self.numbers:
            number.__class__ = SettledProxy  # type: ignore[assignment]
        self.numbers.clear()

    def rest_on(
        self, kind: str, value: str, node: fx.Node | None = None, path: str | None = None, line: Line | None = None
    ) -> None:
        """Note a condition: the graph, and the weights that are scaled by its CoBs, hold where it does."""
        path = (path_of(self.stack[-1]) if self.stack else "") if path is None else path
        name = "" if node is None else node.name
        self.conditions.setdefault(Condition(kind, name, path, quoted(line or calling_line()), value), node)

    def specialize(self, handle: Proxy, value: T) -> T:
        """Python needs the value itself: give it, and record that the graph now depends on it."""
        held = self.known(handle)
        self.asks_type |= isinstance(held, torch.dtype)
        if not isinstance(held, Tensor) or not held.is_meta:
            kind = "branch" if isinstance(held, bool) else "form" if isinstance(held, _FORMS) else "number"
            self.rest_on(kind, f"{handle._node.name} is {held!r}"[:_LONGEST], handle._node)
        return value

    def decided(self, handle: Proxy, value: bool | str | enum.Enum | None) -> None:
        """Python took a branch that depends on sizes, or on what is there: the emitted network insists on the same one.

        Raises:
            DataDependent: whether it is there was seen to depend on the data.
        """
        what = f"{handle._node.name} in {self.where()}"
        if trust_of(handle) > (Trust.EXAMPLE if isinstance(value, bool) else Trust.GUESS):
            self.known(handle)
        if not isinstance(value, bool) or own_check(asking_frame()) is not value:
            self.rest_on("branch", f"{handle._node.name} is {value!r}"[:_LONGEST], handle._node)
        guard(self.graph, expect, handle._node, value, what)

    def checked(self, handle: Proxy) -> bool:
        """Python branches on what depends on the data: if one way does nothing but raise, on the other way.

        Else a branch by what is known of the example inputs (how many edges are left) is taken as it is there.

        Raises:
            DataDependent: both ways go on, and nothing is known.
        """
        frame = asking_frame()
        verdict = None if frame is None else must_be(frame)
        if verdict is None and trust_of(handle) is Trust.EXAMPLE and isinstance(handle._value, bool):
            self.decided(handle, handle._value)
            return handle._value
        if verdict is None:
            raise meta_eval.DataDependent(f"'{handle._node.name}' decides a branch, and depends on the data")
        guard(self.graph, insist, handle._node, verdict, written(calling_line()))
        return verdict

    def hashed(self, handle: Proxy) -> int:
        """Python looks a size up in a table.

        Raises:
            Unhashable: this trace keeps sizes symbolic.
        """
        if not (self.hashes or self.finished):
            raise meta_eval.Unhashable(f"'{handle._node.name}' is a size, which this trace does not fix")
        return hash(self.forced(handle, handle._value))

    def forced(self, handle: Proxy, value: T) -> T:
        """Python takes a number out of the graph: it is a constant from here on, so the emitted network insists."""
        if self.finished:
            return value
        if not self._is_guarded(handle):
            what = f"{handle._node.name} in {self.where()}"
            self.specialize(handle, value)
            self._guards[handle._node] = guard(self.graph, expect, handle._node, handle._value, what)
        return self.specialize(handle, value)

    def said(self, handle: Proxy) -> Any:
        """The value of a size or a setting, for a text: a message, or a name that decides something."""
        frame = asking_frame()
        if isinstance(handle._value, torch.device) or (frame is not None and is_message(frame)):
            return handle._value
        fixed = self.forced if isinstance(handle._value, (int, float, torch.Size)) else self.specialize
        return fixed(handle, handle._value)

    def number(self, handle: Proxy, kind: Callable[[Any], T]) -> T:
        """A value as Python's own number.

        Raises:
            DataDependent: nothing is known of the value.
        """
        value = handle._value
        if isinstance(value, Tensor) and value.is_meta:
            what = f"{kind.__name__}({handle._node.name}) depends on the data"
            raise meta_eval.DataDependent(f"{what}: a graph holds what .item() gives, but no number of Python's own")
        return self.forced(handle, kind(value))

    def known(self, handle: Proxy) -> Any:
        """The value of a handle, for a decision of Python's.

        Raises:
            DataDependent: the value is a guess.
        """
        if trust_of(handle) and not self.finished:
            raise meta_eval.DataDependent(f"the value of '{handle._node.name}' depends on the data")
        return handle._value

    def unpacked(self, handle: Proxy) -> Any:
        """The value of a tuple, a list or a dictionary, for its length.

        Sizes may decide the length, and code that is not traced; of a guess, code mostly does, whatever the data: the
        emitted network makes sure.

        Raises:
            DataDependent: the length was seen to depend on the data.
        """
        value = handle._value
        if self.finished:
            return value
        if trust_of(handle) is Trust.RAGGED:
            raise meta_eval.DataDependent(f"the length of '{handle._node.name}' depends on the data")
        if self._is_guarded(handle) or not (trust_of(handle) or self.may_grow(handle)):
            return value
        if not self.takes_apart():
            what = f"{handle._node.name} in {self.where()}"
            check, fact = (expect_keys, list(value)) if isinstance(value, dict) else (expect_length, len(value))
            self._guards[handle._node] = guard(self.graph, check, handle._node, fact, what)
            kind = "data" if trust_of(handle) else "number"
            self.rest_on(kind, f"{handle._node.name} has {len(value)} items", handle._node)
        return value

    def _is_guarded(self, handle: Proxy) -> bool:
        guarding = self._guards.get(handle._node)
        return guarding is not None and not guarding._erased

    def takes_apart(self) -> bool:
        """True where Python gives the items of what it asks for to names, one each: so it checks how many there are."""
        return unpacks(asking_frame())

    def may_grow(self, handle: Proxy) -> bool:
        """True where other inputs may give another number of items."""
        root = _origin(handle._node)
        if root.op == "call_module":
            return root.target in self.opaque
        plainly = type(handle._value) in (tuple, list, dict)  # not a shape, nor a class with so many fields
        return plainly and root.op != "placeholder" and not _gives_as_many(root)

    def is_unseen(self, handle: Proxy) -> bool:
        """True for what comes out of code that was not traced, in which sizes may decide anything."""
        root = _origin(handle._node)
        return root.op == "call_module" and root.target in self.opaque

    def ranked(self, value: T) -> T:
        """Python asks how many axes a tensor has, which the inputs decide: the emitted network insists on theirs."""
        self.asks_rank = True
        frame = asking_frame()
        said = frame is not None and will_be_message(frame)
        if self.rank_line is None and not (said or unpacks(frame) or insists(frame)):
            self.rank_line, self.rank_node = calling_line(), next(iter(reversed(self.graph.nodes)), None)
        return value

    def where(self) -> str:
        return (path_of(self.stack[-1]) if self.stack else "") or "the model"


# Calls that always give so many tensors; and those that do where they are told a number, or a list of sizes.
_FIXED = frozenset({torch.var_mean, torch.std_mean, torch.frexp, F.multi_head_attention_forward, "frexp", "stride"})
_TOLD: dict[Any, tuple[type, ...]] = {
    **dict.fromkeys((torch.split, torch.split_with_sizes, "split", "split_with_sizes"), (list, tuple)),
    **dict.fromkeys((torch.tensor_split, "tensor_split"), (int, list, tuple)),
}
_EACH = frozenset({torch.meshgrid, torch.broadcast_tensors})  # one for each that they are given


def _gives_as_many(node: fx.Node) -> bool:
    """True for a call that gives as many tensors on all inputs."""
    if node.target in _EACH:
        return not any(isinstance(info(n).value, (tuple, list)) for n in node.all_input_nodes)
    return node.target in _FIXED or isinstance((*node.args, None, None)[1], _TOLD.get(node.target, ()))


def _origin(node: fx.Node) -> fx.Node:
    """The call whose result a node is, or is read out of."""
    while node.target in (operator.getitem, getattr) and not isinstance(info(node.args[0]).value, Tensor):  # type: ignore[arg-type]
        node = node.args[0]  # type: ignore[assignment]
    return node


def trust_of(handle: Proxy) -> Trust:
    """What may rest on a value."""
    return info(handle._node).trust
