"""Holders: mutable Python objects that refer to others: what they hold, and how to restore it.

Lists and other containers, objects of the user's classes, and functions with their closures.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import types
import weakref
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxteleport.passes.graph.arrays import held_by, is_array, still_holds
from fxteleport.passes.graph.class_cache import once_per_class
from fxteleport.passes.graph.containers import items_of, refill
from fxteleport.passes.graph.contents import FILLED
from fxteleport.passes.graph.reachable import NAMESPACES, fields_of, is_library
from fxteleport.passes.graph.structure import PLAIN

_OPAQUE = (Tensor, nn.Module, type, types.ModuleType, types.CodeType)
_ITEMS: tuple[Any, ...] = (list, tuple, set, frozenset, collections.deque)
_CODE = (types.FunctionType, types.MethodType, functools.partial)
_EMPTY = object()  # what a cell holds that is not assigned yet
Held = dict[Any, Any]


@dataclass(frozen=True)
class Namespace:
    """Some names of a class, or of a table of globals."""

    of: Any
    names: frozenset[str]

    def contents(self) -> Held:
        table = vars(self.of) if isinstance(self.of, type) else self.of
        return {name: table[name] for name in self.names if name in table}

    def put_back(self, held: Held) -> None:
        for name in self.names:
            if isinstance(self.of, type):
                setattr(self.of, name, held[name]) if name in held else delattr(self.of, name)
            elif name in held:
                self.of[name] = held[name]
            else:
                self.of.pop(name, None)


@dataclass(frozen=True)
class ShadowedClass:
    """A user's class that a subclass (`shadow`) stands in for during a trace: code may set attributes on that.

    Attributes:
        names: the attributes that the subclass had from the beginning.
    """

    of: type
    shadow: type
    names: frozenset[str]

    def contents(self) -> Held:
        new = {k: v for k, v in vars(self.shadow).items() if k not in self.names and _is_data(k, v)}
        return {k: v for k, v in vars(self.of).items() if _is_data(k, v)} | new

    def put_back(self, held: Held) -> None:
        for name in [k for k, v in vars(self.of).items() if _is_data(k, v) and k not in held]:
            delattr(self.of, name)
        for name, value in held.items():
            if vars(self.of).get(name, _EMPTY) is not value:
                setattr(self.of, name, value)


def _is_data(name: str, value: Any) -> bool:
    return not (name.startswith("__") or hasattr(value, "__get__"))


def contents_of(x: Any) -> Held:
    """What an object holds, by key; nothing for a module, a tensor, or an object of a library's class.

    Keys are attribute names, or pairs: (0, key or index) of an item, (1, index) of a closure's cell, (2, index) and
    (3, name) of a default.
    """
    kind = type(x)  # `isinstance` would ask what a proxy stands for
    if kind in PLAIN or issubclass(kind, _OPAQUE):
        return {}
    if kind in (Namespace, ShadowedClass):
        return x.contents()  # type: ignore[no-any-return]
    if kind is types.FunctionType:
        return _of_function(x)
    if kind is types.MethodType:
        return {"__self__": x.__self__, "__func__": x.__func__}
    if issubclass(kind, functools.partial):
        return {"func": x.func, "args": x.args, "keywords": x.keywords}
    if issubclass(kind, weakref.ReferenceType):
        return {"": x()}
    fields = _fields(x) if holds_fields(kind) else {}
    if issubclass(kind, dict):
        return {(0, k): v for k, v in items_of(x).items()} | fields
    base = next((base for base in _ITEMS if issubclass(kind, base)), None)
    return fields if base is None else {(0, i): v for i, v in enumerate(base.__iter__(x))} | fields


@once_per_class
def holds_fields(kind: type) -> bool:
    """True for a class whose objects are described by their attributes: the user's, and Python's namespaces."""
    return not is_library(kind.__module__) or issubclass(kind, NAMESPACES) or dataclasses.is_dataclass(kind)


def put_back(x: Any, held: Held) -> None:
    """Restore what an object held (`contents_of`)."""
    if isinstance(x, (types.MethodType, functools.partial, weakref.ReferenceType, frozenset)):
        return
    if isinstance(x, (Namespace, ShadowedClass)):
        x.put_back(held)
        return
    if isinstance(x, types.FunctionType):
        _put_into_function(x, held)
        return
    items = {key[1]: v for key, v in held.items() if type(key) is tuple}
    if isinstance(x, FILLED):
        refill(x, items if isinstance(x, dict) else list(items.values()))
    fields = {key: v for key, v in held.items() if type(key) is str}
    for name in fields_of(x):
        if name not in fields:
            object.__delattr__(x, name)
    for name, value in fields.items():
        if getattr(x, name, _EMPTY) is not value:
            object.__setattr__(x, name, value)


def are_same(now: Held, then: Held) -> bool:
    """True where the same objects, or equal plain ones, are under the same keys."""
    return list(now) == list(then) and all(v is then[k] or _equal(v, then[k]) for k, v in now.items())


def _equal(a: Any, b: Any) -> bool:
    return type(a) is type(b) and type(a) in PLAIN and bool(a == b or (a != a and b != b))


def are_equal(a: Any, b: Any) -> bool:
    """True for values that are equal at every depth, arrays in them by their content."""
    if a is b or _equal(a, b):
        return True
    if type(a) is not type(b):
        return False
    if is_array(type(a)):
        held = held_by(b)
        return held is not None and held_by(a) is not None and still_holds(a, held)
    one, other = contents_of(a), contents_of(b)
    return bool(one) and list(one) == list(other) and all(are_equal(v, other[k]) for k, v in one.items())


def leaves_in(x: Any) -> Iterator[Any]:
    """The leaves of a value: what it holds, at any depth, that holds nothing itself. Functions count as leaves."""
    waiting, seen = [x], set[int]()
    while waiting:
        x = waiting.pop()
        held = {} if type(x) in PLAIN or id(x) in seen or isinstance(x, _CODE) else contents_of(x)
        seen.add(id(x))
        waiting += held.values()
        if not held:
            yield x


def leading_to(values: Iterable[Any], ids: Collection[int]) -> list[Any]:
    """The objects with these ids that can be reached from `values`, and the objects on the way to them."""
    seen: dict[int, Any] = {}
    holders: dict[int, list[int]] = {}
    waiting = [(v, 0) for v in values]
    while waiting:
        x, holder = waiting.pop()
        if type(x) in PLAIN:
            continue
        holders.setdefault(id(x), []).append(holder)
        if id(x) not in seen:
            seen[id(x)] = x
            waiting += [(v, id(x)) for v in contents_of(x).values()]
    chosen: set[int] = set()
    new = [i for i in ids if i in seen]
    while new:
        chosen.update(new)
        new = [holder for i in new for holder in holders[i] if holder and holder not in chosen]
    return [seen[i] for i in chosen]


def _fields(x: Any) -> Held:
    return {name: value for name in fields_of(x) if (value := _field(x, name)) is not _EMPTY}


def _field(x: Any, name: str) -> Any:
    try:
        return object.__getattribute__(x, name)
    except AttributeError:
        return _EMPTY


def _of_function(x: types.FunctionType) -> Held:
    held: Held = {(1, i): _cell(cell) for i, cell in enumerate(x.__closure__ or ())}
    held |= {(2, i): v for i, v in enumerate(x.__defaults__ or ())}
    return held | {(3, k): v for k, v in (x.__kwdefaults__ or {}).items()} | dict(vars(x))


def _put_into_function(x: types.FunctionType, held: Held) -> None:
    for i, cell in enumerate(x.__closure__ or ()):
        if held[1, i] is _EMPTY:
            del cell.cell_contents
        else:
            cell.cell_contents = held[1, i]
    vars(x).clear()
    vars(x).update({key: v for key, v in held.items() if type(key) is str})


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY
