"""Objects that are neither tensors nor plain values, and that the code of a graph cannot spell.

A `forward` may return its tensors inside an object of its own (the cache of a language model): it is taken apart, and
made anew each time the network runs. Nowhere else can a graph hold one: whoever got it might change it.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

_SPELT = (
    bool, int, float, complex, str, bytes, range, enum.Enum, type(None), type(...), fx.Node,
    torch.dtype, torch.device, torch.layout, torch.memory_format, torch._ops.OpOverload,
)  # fmt: skip
# What arguments and settings mostly are: they hold nothing else, and one object is as good as its equal.
PLAIN = frozenset({bool, int, float, str, type(None), type(...), torch.dtype, torch.device, torch.memory_format})
_SHARED = (type, types.FunctionType, types.ModuleType, nn.Module)
_DESCRIPTORS = (property, types.MemberDescriptorType, types.GetSetDescriptorType)


def is_record(x: Any) -> bool:
    """True for an object of a data class that is no container by itself (a dictionary with fields, say)."""
    return dataclasses.is_dataclass(x) and not isinstance(x, (type, dict))


def remade(record: Any, fields: dict[str, Any]) -> Any:
    """A copy of a data class's object, frozen or not, with other fields."""
    made = copy.copy(record)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def is_object(x: Any) -> bool:
    """True for an object of an ordinary class which, all the way down, holds tensors, plain values, containers, classes
    and such objects alone, none of these twice: what its attributes are says all of it.

    Data classes are told by `is_record`; modules, functions and what is written in C hold more.
    """
    return _is_ordinary(x) and _is_closed(x, set())


def _is_ordinary(x: Any) -> bool:
    kind = type(x)
    if kind in PLAIN or isinstance(x, (Tensor, *_SHARED, *_SPELT)) or is_record(x) or not hasattr(x, "__dict__"):
        return False
    if any(isinstance(getattr(kind, name, None), _DESCRIPTORS) for name in vars(x)):
        return False
    if any(vars(base).get("__slots__") for base in kind.__mro__):  # attributes that are elsewhere
        return False
    try:
        _new(kind)
    except TypeError:  # a partial, a lock, an exception
        return False
    return True


def _is_closed(x: Any, seen: set[int]) -> bool:
    if isinstance(x, (Tensor, type)) or type(x) in PLAIN:
        return True
    if isinstance(x, (list, dict)) or _is_ordinary(x):
        if id(x) in seen:
            return False
        seen.add(id(x))
    if type(x) in (list, tuple):
        return all(_is_closed(item, seen) for item in x)
    if type(x) is dict:
        return all(is_spelt(key) and _is_closed(item, seen) for key, item in x.items())
    return all(_is_closed(item, seen) for item in vars(x).values()) if _is_ordinary(x) else is_spelt(x)


def with_fields(x: Any, fields: dict[str, Any]) -> Any:
    """An object of the same class with other attributes; its constructor is not called."""
    made = _new(type(x))
    vars(made).update(fields)
    return made


def _new(kind: type) -> Any:
    """An object without attributes."""
    return (types.SimpleNamespace if issubclass(kind, types.SimpleNamespace) else object).__new__(kind)


def mapped_table(table: Any, fn: Callable[[Any], Any]) -> Any:
    """A dictionary of the same class with other items, and other attributes: transformers' ModelOutput is one.

    Its constructor is not called: it may ask for fields.
    """
    kind: Any = type(table)
    if kind is dict:
        return {k: fn(v) for k, v in table.items()}
    try:
        made = kind.__new__(kind)
    except TypeError:  # it must be given something
        made = copy.copy(table)
    if isinstance(table, collections.defaultdict):
        made.default_factory = table.default_factory
    new = {id(v): fn(v) for v in dict.values(table)}  # an attribute that is an item stays it
    refill(made, {k: new[id(v)] for k, v in dict.items(table)})
    for name, x in getattr(table, "__dict__", {}).items():
        made.__dict__[name] = new[id(x)] if id(x) in new else fn(x)
    return made


def refill(container: Any, held: list[Any] | dict[Any, Any]) -> None:
    """Have a list or a dictionary hold other things, past what its class makes of that."""
    if isinstance(container, list):
        list.__setitem__(container, slice(None), held)
        return
    kind: Any = collections.OrderedDict if isinstance(container, collections.OrderedDict) else dict
    kind.clear(container)
    for key, x in held.items():  # type: ignore[union-attr]
        kind.__setitem__(container, key, x)


LEAVING = frozenset({setattr, refill})  # by these, a graph leaves something in an object that it is given


def contents(container: Any) -> Any:
    """What a list or a dictionary holds, in a plain one."""
    return list(container) if isinstance(container, list) else dict(container)


def is_spelt(x: Any) -> bool:
    """True for what generated code can spell."""
    if isinstance(x, (tuple, list, set, frozenset)):
        return all(map(is_spelt, x))
    if isinstance(x, dict):
        return all(is_spelt(k) and is_spelt(v) for k, v in x.items())
    if isinstance(x, slice):
        return all(map(is_spelt, (x.start, x.stop, x.step)))
    return isinstance(x, _SPELT)


@dataclass(frozen=True, slots=True)
class _Hole:
    """The place of a value that each run has anew."""

    number: int


@dataclass(frozen=True, slots=True)
class _Made:
    """An object of a class, with these attributes."""

    kind: type
    fields: dict[str, Any]
    table: Any = None  # of a dictionary: a copy, with holes in it


class Assemble(nn.Module):
    """Makes an object anew, with the values of this run in it."""

    def __init__(self, template: Any, name: str) -> None:
        super().__init__()
        self._template, self.made = template, name

    def forward(self, *values: Any) -> Any:
        return _filled(self._template, values)

    def __deepcopy__(self, memo: dict[int, Any]) -> Assemble:
        return self  # it never changes, and what it shares with the model (a configuration) is the model's


def take_apart(x: Any, is_hole: Callable[[Any], bool]) -> tuple[Assemble, list[Any]]:
    """How to make an object anew, and the values that it is made from.

    Raises:
        RuntimeError: it holds a tensor without values.
        RecursionError: it holds itself.
    """
    values: list[Any] = []

    def visit(x: Any) -> Any:
        if is_hole(x):
            values.append(x)
            return _Hole(len(values) - 1)
        if isinstance(x, Tensor) and x.is_meta:
            raise RuntimeError("an object that it returns holds a tensor computed outside the trace")
        kind, before = type(x), len(values)
        if kind in (list, tuple):
            return kind(map(visit, x))
        if kind is dict:
            return {k: visit(v) for k, v in x.items()}
        if isinstance(x, dict):
            return _Made(kind, {}, mapped_table(x, visit))
        if hasattr(x, "__dict__") and not isinstance(x, _SHARED):
            fields = {k: visit(v) for k, v in vars(x).items()}
            return _Made(kind, fields) if len(values) > before else x
        return x

    return Assemble(visit(x), type(x).__name__), values


def _filled(x: Any, values: tuple[Any, ...]) -> Any:
    kind = type(x)
    if kind is _Hole:
        return values[x.number]
    if kind is _Made and x.table is not None:
        return mapped_table(x.table, lambda v: _filled(v, values))
    if kind is _Made:
        made = object.__new__(x.kind)
        made.__dict__.update({k: _filled(v, values) for k, v in x.fields.items()})
        return made
    if kind in (list, tuple):
        return kind(_filled(v, values) for v in x)
    return {k: _filled(v, values) for k, v in x.items()} if kind is dict else x
