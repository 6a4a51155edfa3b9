"""Proxies of sequences, dictionaries and other objects."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxteleport.passes.capture.protocols import Trace
from fxteleport.passes.capture.proxy.access import plain
from fxteleport.passes.capture.proxy.base import Proxy
from fxteleport.passes.capture.proxy.overriding import Overriding
from fxteleport.passes.graph.containers import mapped_table, refill
from fxteleport.passes.graph.ops import same_items


class SequenceProxy(Overriding, Proxy):
    """A tuple or a list (a shape, the parts of a split): indexing records, slicing gives a plain tuple."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            positions = range(len(self._known()))[index]
            return tuple(self._trace.record("call_function", operator.getitem, (self, i), {}) for i in positions)
        return self._trace.record("call_function", operator.getitem, (self, operator.index(index)), {})

    def __len__(self) -> int:
        return len(self._known())

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self._known())))

    def _known(self) -> Any:
        """The value, for its length; how many sizes a shape has never depends on the data."""
        return (
            self._trace.inputs.ranked(self._value)
            if isinstance(self._value, torch.Size)
            else self._trace.lengths.unpacked(self)
        )

    def __contains__(self, item: Any) -> bool:
        return any(bool(x == item) for x in self)

    def __add__(self, other: Any) -> Any:
        return [*self, *other] if isinstance(self._value, list) else (*self, *other)

    def __radd__(self, other: Any) -> Any:
        if isinstance(self._value, list):
            return [*other, *self]
        return NotImplemented if isinstance(other, list) else (*other, *self)  # `list += parts` extends the list

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (tuple, list)):
            return False
        return bool(self._trace.record("call_function", same_items, (self, other), {}))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return self._trace.values.hashed(self)


class Held(Overriding, Proxy):
    """A proxy of an object or a dictionary. Once code assigns to it, it stands for a copy that belongs to the trace.

    Attributes:
        _own: the copy, with proxies of what the value holds; None before the first assignment.
    """

    __slots__ = ("_own",)

    def __init__(self, node: fx.Node, trace: Trace, value: Any) -> None:
        self._own: Any = None
        super().__init__(node, trace, value)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if self._own is None else getattr(self._own, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OF_PROXIES:
            object.__setattr__(self, name, value)
        else:
            setattr(self._made_own(), name, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._made_own()[key] = value

    def _made_own(self) -> Any:
        """The object that is assigned to."""
        if self._own is None:
            self._own = self._opened()
        return self._own

    def _opened(self) -> Any:
        made, read = copy.copy(self._value), self._trace.record
        for name in vars(self._value):
            object.__setattr__(made, name, read("call_function", getattr, (self, name), {}))
        return made


_OF_PROXIES = frozenset({"_node", "_trace", "_value", "_own"})


class DictProxy(Held):
    """A dictionary, such as an opaque module returns: its keys are plain values, its items are recorded."""

    __slots__ = ()

    def _opened(self) -> Any:
        items = {key: self[key] for key in self}
        of = {id(x): items[key] for key, x in dict.items(self._value)}
        read = functools.partial(self._trace.record, "call_function", getattr)
        made = mapped_table(self._value, lambda x: x)
        refill(made, items)
        for name, x in getattr(self._value, "__dict__", {}).items():
            made.__dict__[name] = of[id(x)] if id(x) in of else read((self, name), {})
        return made

    def __getitem__(self, key: Any) -> Any:
        if self._own is not None:
            return self._own[key]
        return self._trace.record("call_function", operator.getitem, (self, key), {})

    def __len__(self) -> int:
        return len(self._keys())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._keys())

    def __contains__(self, item: Any) -> bool:
        return item in self._keys()

    def _keys(self) -> Any:
        return self._trace.lengths.unpacked(self) if self._own is None else self._own

    def keys(self) -> list[Any]:
        return list(self)

    def values(self) -> list[Any]:
        return [self[k] for k in self]

    def items(self) -> list[tuple[Any, Any]]:
        return [(k, self[k]) for k in self]

    def get(self, key: Any, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 it is this method

    def __hash__(self) -> int:
        return id(self)


class ObjectProxy(Held):
    """Any other value, such as the data class that an opaque module returns."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        return self._trace.record("call_function", operator.getitem, (self, index), {})

    def __len__(self) -> int:
        return len(self._trace.lengths.unpacked(self))

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self._trace.lengths.unpacked(self))))

    def __contains__(self, item: Any) -> bool:
        return item in self._trace.values.known(self)

    def __bool__(self) -> bool:
        return self._trace.values.specialize(self, bool(self._value))

    def __eq__(self, other: object) -> bool:
        if isinstance(self._value, torch.dtype):
            return self._trace.values.is_type(self, other)
        return self._trace.values.specialize(self, bool(self._value == plain(other)))

    def __hash__(self) -> int:
        known = self._trace.values.forced if isinstance(self._value, torch.dtype) else self._trace.values.specialize
        return hash(known(self, self._value))


# Code that uses pytree: it does not know the proxies' classes.
pytree.register_pytree_node(
    SequenceProxy, lambda x: (list(x), list if isinstance(x._value, list) else tuple), lambda parts, kind: kind(parts)
)
pytree.register_pytree_node(
    DictProxy, lambda x: (x.values(), x.keys()), lambda values, keys: dict(zip(keys, values, strict=True))
)
