"""Decisions: what Python wants to know of a value while a model is traced.

What it decides from a size is part of the trace: it is recorded as specialised, and a guard makes the emitted network
insist on it. From a guess (`evaluate.Trust`) nothing may be decided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from fxteleport.passes import evaluate
from fxteleport.passes.checks import must_be
from fxteleport.passes.evaluate import Trust
from fxteleport.passes.guards import expect, expect_length, guard, insist
from fxteleport.passes.proxy import Proxy
from fxteleport.passes.source import asking_frame, calling_line, written
from fxteleport.passes.traced import path_of

T = TypeVar("T")


class Decisions:
    """The graph under construction, and what is specialised in it.

    Attributes:
        hashes: a size may be hashed; it is a number then.
        finished: the trace is over. A proxy that Python still holds is its value.
    """

    def __init__(self, hashes: bool = False) -> None:
        self.hashes = hashes
        self.finished = False
        self.asks_rank = self.asks_type = False  # Python asked for a tensor's number of axes, or type
        self.graph = fx.Graph()
        self.specialized: list[str] = []
        self.stack: list[nn.Module] = []  # the modules whose forward is running, outermost first

    def specialize(self, handle: Proxy, value: T) -> T:
        """Python needs the value itself: give it, and record that the graph now depends on it."""
        self.known(handle)
        self.asks_type |= isinstance(handle._value, torch.dtype) and value is not None
        if not isinstance(handle._value, Tensor) or not handle._value.is_meta:
            self.specialized.append(f"{self.where()}: {handle._node.name} is {handle._value!r}"[:200])
        return value

    def decided(self, handle: Proxy, value: bool) -> None:
        """Python took a branch that depends on sizes: the emitted network insists that it would be the same one."""
        what = f"{handle._node.name} in {self.where()}"
        self.specialize(handle, value)
        guard(self.graph, expect, handle._node, value, what)

    def checked(self, handle: Proxy) -> bool:
        """Python branches on what depends on the data: if one way does nothing but raise, on the other way.

        Raises:
            DataDependent: both ways go on.
        """
        frame = asking_frame()
        verdict = None if frame is None else must_be(frame)
        if verdict is None:
            raise evaluate.DataDependent(f"'{handle._node.name}' decides a branch, and depends on the data")
        guard(self.graph, insist, handle._node, verdict, written(calling_line()))
        return verdict

    def hashed(self, handle: Proxy) -> int:
        """Python looks a size up in a table.

        Raises:
            Unhashable: this trace keeps sizes symbolic.
        """
        if not (self.hashes or self.finished):
            raise evaluate.Unhashable(f"'{handle._node.name}' is a size, which this trace does not fix")
        return hash(self.forced(handle, handle._value))

    def forced(self, handle: Proxy, value: T) -> T:
        """Python takes a number out of the graph: it is a constant from here on, so the emitted network insists."""
        if self.finished:
            return value
        if not _guarded(handle):
            what = f"{handle._node.name} in {self.where()}"
            self.specialize(handle, value)
            handle._node.meta["guarded"] = guard(self.graph, expect, handle._node, handle._value, what)
        return self.specialize(handle, value)

    def number(self, handle: Proxy, kind: Callable[[Any], T]) -> T:
        """A value as Python's own number.

        Raises:
            DataDependent: nothing is known of the value.
        """
        value = handle._value
        if isinstance(value, Tensor) and value.is_meta:
            what = f"{kind.__name__}({handle._node.name}) depends on the data"
            raise evaluate.DataDependent(f"{what}: a graph holds what .item() gives, but no number of Python's own")
        return self.forced(handle, kind(value))

    def known(self, handle: Proxy) -> Any:
        """The value of a handle, for a decision of Python's.

        Raises:
            DataDependent: the value is a guess.
        """
        if trust_of(handle) and not self.finished:
            raise evaluate.DataDependent(f"the value of '{handle._node.name}' depends on the data")
        return handle._value

    def unpacked(self, handle: Proxy) -> Any:
        """The value of a tuple, a list or a dictionary, for its length.

        Code mostly decides the length, whatever the data: the emitted network makes sure of a guess.

        Raises:
            DataDependent: the length was seen to depend on the data.
        """
        value = handle._value
        if self.finished:
            return value
        if trust_of(handle) is Trust.RAGGED:
            raise evaluate.DataDependent(f"the length of '{handle._node.name}' depends on the data")
        if trust_of(handle) and not _guarded(handle):
            what = f"{handle._node.name} in {self.where()}"
            handle._node.meta["guarded"] = guard(self.graph, expect_length, handle._node, len(value), what)
        return value

    def ranked(self, value: T) -> T:
        """Python asks how many axes a tensor has, which the inputs decide: the emitted network insists on theirs."""
        self.asks_rank = True
        return value

    def where(self) -> str:
        return (path_of(self.stack[-1]) if self.stack else "") or "the model"


def trust_of(handle: Proxy) -> Trust:
    """What may rest on a value."""
    return handle._node.meta.get("trust", Trust.KNOWN)  # type: ignore[no-any-return]


def _guarded(handle: Proxy) -> bool:
    guarding = handle._node.meta.get("guarded")
    return guarding is not None and not guarding._erased
