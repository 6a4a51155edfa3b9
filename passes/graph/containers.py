"""Containers: which classes hold values, how to read their items, and how to build one with other items.

This is the one registry of containers, for arguments, inputs, outputs, settings and files. A value of any class that is
not registered here is a leaf. To support another kind of container, add it to `_KINDS`.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import operator
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from fxteleport.passes.graph.class_cache import once_per_class


class Kind(NamedTuple):
    """A kind of container.

    Attributes:
        covers: whether a class is of this kind.
        keys, values: those of a container, in the same order.
        like: `like(container, values)` is a container of the same class with other values.
        read: `read(container, key)` is the value at a key, as a program reads it.
        field: `field(container, key)` is the attribute name of an item; None where items have no names.
    """

    covers: Callable[[type], bool]
    keys: Callable[[Any], Iterable[Any]]
    values: Callable[[Any], Iterable[Any]]
    like: Callable[[Any, Iterable[Any]], Any]
    read: Callable[[Any, Any], Any]
    field: Callable[[Any, Any], str | None] = lambda x, key: None


def is_record(x: Any) -> bool:
    """True for an object of a data class that is no container by itself (a dictionary with fields, say)."""
    return kind_of(type(x)) is RECORD


def is_named_tuple(cls: type) -> bool:
    """True for a class of named tuples, such as packed sequences."""
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def _fields(x: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(x)]


def field_of(record: Any, name: str) -> Any:
    """A field of a data class's object; where reading it raises, the entry of `__dict__`."""
    try:
        return getattr(record, name, None)
    except Exception:
        return getattr(record, "__dict__", {}).get(name)


def remade(record: Any, fields: dict[str, Any]) -> Any:
    """A copy of a data class's object, frozen or not, with other fields."""
    copied = copy.copy(record)
    for name, value in fields.items():
        object.__setattr__(copied, name, value)
    return copied


def _table_like(table: Any, values: Iterable[Any]) -> Any:
    copied, new = mapped_table(table, lambda x: x), dict(zip(TABLE.keys(table), values, strict=True))
    refill(copied, new)
    keys = {id(x): key for key, x in items_of(table).items()}  # an attribute that is an item stays it
    for name, x in getattr(table, "__dict__", {}).items():
        if id(x) in keys:
            copied.__dict__[name] = new[name if name in new else keys[id(x)]]
    return copied


def mapped_table(table: Any, fn: Callable[[Any], Any]) -> Any:
    """A dictionary of the same class with other items, and other attributes: transformers' ModelOutput is one.

    Its constructor is not called: it may ask for fields.
    """
    kind: Any = type(table)
    if kind is dict:
        return {k: fn(v) for k, v in table.items()}
    try:
        copied = kind.__new__(kind)
    except TypeError:  # it must be given something
        copied = copy.copy(table)
    if isinstance(table, collections.defaultdict):
        copied.default_factory = table.default_factory
    new = {id(v): fn(v) for v in TABLE.values(table)}  # an attribute that is an item stays it
    refill(copied, {k: new[id(v)] for k, v in items_of(table).items()})
    for name, x in getattr(table, "__dict__", {}).items():
        copied.__dict__[name] = new[id(x)] if id(x) in new else fn(x)
    return copied


def items_of(table: dict[Any, Any]) -> dict[Any, Any]:
    """The items of a dictionary in its order, read with Python's own methods and not those of a subclass."""
    return dict(_table_of(table).items(table))


def _table_of(x: Any) -> Any:
    """Python's class whose methods read a dictionary: an `OrderedDict` stores its order apart."""
    ordered = type(x) is not dict and isinstance(x, collections.OrderedDict)
    return collections.OrderedDict if ordered else dict


def refill(container: Any, values: Any) -> None:
    """Replace the items of a list, set, queue or dictionary with Python's own methods and not those of a subclass."""
    if isinstance(container, list):
        list.__setitem__(container, slice(None), values)
        return
    kind: Any = next(
        cls for cls in (collections.OrderedDict, dict, set, collections.deque) if isinstance(container, cls)
    )
    kind.clear(container)
    if not issubclass(kind, dict):
        (kind.update if kind is set else kind.extend)(container, values)
        return
    for key, x in values.items():
        kind.__setitem__(container, key, x)


def _filled_like(x: Any, values: Iterable[Any]) -> Any:
    """A list or a queue of the same class, with its attributes, and with other items."""
    copied = [] if type(x) is list else copy.copy(x)
    refill(copied, list(values))
    return copied


def _as_it_is(x: Any) -> Any:
    return x


def _numbers(x: Any) -> range:
    return range(len(x))


SLICE = Kind(
    lambda cls: cls is slice,
    lambda x: ("start", "stop", "step"),
    lambda x: (x.start, x.stop, x.step),
    lambda x, values: slice(*values),
    getattr,
    lambda x, name: str(name),
)
NAMED_TUPLE = Kind(
    is_named_tuple, _numbers, _as_it_is, lambda x, values: x._make(values), operator.getitem, lambda x, i: x._fields[i]
)
SEQUENCE = Kind(
    lambda cls: issubclass(cls, (tuple, list)),
    _numbers,
    _as_it_is,
    lambda x, values: _filled_like(x, values) if isinstance(x, list) else type(x)(values),
    operator.getitem,
)
QUEUE = Kind(
    lambda cls: issubclass(cls, collections.deque),
    _numbers,
    _as_it_is,
    lambda x, values: _filled_like(x, values),
    operator.getitem,
)
TABLE = Kind(
    lambda cls: issubclass(cls, dict),
    lambda x: _table_of(x).keys(x),
    lambda x: _table_of(x).values(x),
    _table_like,
    operator.getitem,
)
VIEW = Kind(  # of a dictionary, which cannot be changed through it
    lambda cls: cls is types.MappingProxyType,
    lambda x: x.keys(),
    lambda x: x.values(),
    lambda x, values: types.MappingProxyType(dict(zip(x, values, strict=True))),
    operator.getitem,
)
RECORD = Kind(
    dataclasses.is_dataclass,
    _fields,
    lambda x: [field_of(x, name) for name in _fields(x)],
    lambda x, values: remade(x, dict(zip(_fields(x), values, strict=True))),
    getattr,
    lambda x, name: str(name),
)
SEQUENCES = (NAMED_TUPLE, SEQUENCE, QUEUE)  # their keys are positions
_KINDS = (SLICE, NAMED_TUPLE, SEQUENCE, QUEUE, TABLE, VIEW, RECORD)


@once_per_class
def kind_of(cls: type) -> Kind | None:
    """The kind of container that a class's objects are; None for leaves."""
    return next((kind for kind in _KINDS if kind.covers(cls)), None)


def held(x: Any) -> Iterable[Any]:
    """The values in a container; none for a leaf."""
    kind = kind_of(type(x))
    return () if kind is None else kind.values(x)


def parts(x: Any) -> Iterable[tuple[Any, Any]]:
    """The keys and values of a container; none for a leaf."""
    kind = kind_of(type(x))
    return () if kind is None else zip(kind.keys(x), kind.values(x), strict=True)


def mapped(x: Any, fn: Callable[[Any], Any]) -> Any:
    """A container of the same class with `fn` of each value. A leaf is returned as it is."""
    kind = kind_of(type(x))
    if kind is None:
        return x
    return mapped_table(x, fn) if kind is TABLE else kind.like(x, [fn(value) for value in kind.values(x)])


def leaves(x: Any) -> Iterator[Any]:
    """The leaves of nested containers, in order."""
    kind = kind_of(type(x))
    if kind is None:
        yield x
        return
    for value in kind.values(x):
        yield from leaves(value)


def spelled(x: Any, key: Any) -> str:
    """How code spells a part of a container: `[0]`, `['a']`, `.name`."""
    kind = kind_of(type(x))
    name = None if kind is None else kind.field(x, key)
    return f"[{key!r}]" if name is None else f".{name}"
