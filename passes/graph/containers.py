"""Containers: what holds values, how it is taken apart, and how one like it is made of other values.

The one registry of them, for all that look into arguments, inputs, outputs, settings and files: what is no container
here is a leaf everywhere. A new kind of container is a new line of `_KINDS`.
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
        keys, values: of a container, in the same order.
        like: a container of the same class with other values; its constructor is not asked.
        read: how code gets at a value: `read(container, key)`.
        field: the name of a key where a container has names for what it holds, else None.
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
    """A field of a data class's object; where its class refuses to say, what is held by that name."""
    try:
        return getattr(record, name, None)
    except Exception:
        return getattr(record, "__dict__", {}).get(name)


def remade(record: Any, fields: dict[str, Any]) -> Any:
    """A copy of a data class's object, frozen or not, with other fields."""
    made = copy.copy(record)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _table_like(table: Any, values: Iterable[Any]) -> Any:
    made, new = mapped_table(table, lambda x: x), dict(zip(TABLE.keys(table), values, strict=True))
    refill(made, new)
    keys = {id(x): key for key, x in items_of(table).items()}  # an attribute that is an item stays it
    for name, x in getattr(table, "__dict__", {}).items():
        if id(x) in keys:
            made.__dict__[name] = new[name if name in new else keys[id(x)]]
    return made


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
    new = {id(v): fn(v) for v in TABLE.values(table)}  # an attribute that is an item stays it
    refill(made, {k: new[id(v)] for k, v in items_of(table).items()})
    for name, x in getattr(table, "__dict__", {}).items():
        made.__dict__[name] = new[id(x)] if id(x) in new else fn(x)
    return made


def items_of(table: dict[Any, Any]) -> dict[Any, Any]:
    """What a dictionary of any class holds, in its order, past what its class makes of that."""
    return dict(_table_of(table).items(table))


def _table_of(x: Any) -> Any:
    """The class of Python's that knows what a dictionary holds: an ordered one has an order of its own."""
    ordered = type(x) is not dict and isinstance(x, collections.OrderedDict)
    return collections.OrderedDict if ordered else dict


def refill(container: Any, values: Any) -> None:
    """Have a list, a set, a queue or a dictionary hold other things, past what its class makes of that."""
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
    made = [] if type(x) is list else copy.copy(x)
    refill(made, list(values))
    return made


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
SEQUENCES = (NAMED_TUPLE, SEQUENCE, QUEUE)  # their values are in an order, and have numbers
_KINDS = (SLICE, NAMED_TUPLE, SEQUENCE, QUEUE, TABLE, VIEW, RECORD)


@once_per_class
def kind_of(cls: type) -> Kind | None:
    """The kind of container that a class's objects are; None for leaves."""
    return next((kind for kind in _KINDS if kind.covers(cls)), None)


def held(x: Any) -> Iterable[Any]:
    """What a container holds; nothing for a leaf."""
    kind = kind_of(type(x))
    return () if kind is None else kind.values(x)


def parts(x: Any) -> Iterable[tuple[Any, Any]]:
    """What a container holds, each with its key; nothing for a leaf."""
    kind = kind_of(type(x))
    return () if kind is None else zip(kind.keys(x), kind.values(x), strict=True)


def mapped(x: Any, fn: Callable[[Any], Any]) -> Any:
    """A new container like another one, with `fn` of what that holds. A leaf stays what it is."""
    kind = kind_of(type(x))
    if kind is None:
        return x
    return mapped_table(x, fn) if kind is TABLE else kind.like(x, [fn(value) for value in kind.values(x)])


def leaves(x: Any) -> Iterator[Any]:
    """What a structure of containers holds, all the way down."""
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
