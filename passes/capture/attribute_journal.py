"""Writes: what a forward sets on its modules while it is traced, and whether a layer is what it was at planning.

A layer may be recorded as itself, and a module kept whole, only as it was planned: the emitted network holds it as it
was. Each assignment to a shadow (an attribute, a parameter, a buffer) is therefore noted in a journal, with what was
there before.
"""

from __future__ import annotations

import collections
import functools
import operator
import types
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from fxteleport.passes.graph.module_clone import PATH, is_clone
from fxteleport.passes.graph.structure import PLAIN

ABSENT = object()
_TABLES = frozenset({dict, set, collections.OrderedDict})
_OTHER = frozenset({"_parameters", "_buffers", "_modules", "training", PATH})  # that clones have of their own


class Writes:
    """A journal of the assignments to shadows: the dictionary, the key, and what it held."""

    def __init__(self) -> None:
        self._log: list[tuple[dict[str, Any], str, Any]] = []
        self._written: set[int] = set()
        self._called: dict[int, int] = {}  # when a layer that owns the dictionary was first called
        self._started: list[tuple[nn.Module, dict[str, Any]]] = []

    def __len__(self) -> int:
        return len(self._log)

    def note(self, table: dict[str, Any], key: str) -> None:
        """A key is about to be assigned to, or deleted."""
        self._log.append((table, key, dict.get(table, key, ABSENT)))
        self._written.add(id(table))

    def start(self, modules: Iterable[nn.Module]) -> None:
        """Forward is about to run: what modules hold now, and no assignment to them changes, it changes past them."""
        self._started = [(module, dict(vars(module))) for module in modules]

    def past(self) -> Iterator[tuple[nn.Module, str, Any, Any]]:
        """What forward has set of modules past its assignments (`vars(self)["n"] = 1`): it, the key, then and now."""
        noted = {(id(table), key) for table, key, _ in self._log}
        for module, then in self._started:
            table = vars(module)
            if all(map(operator.is_, table.values(), then.values())) and table.keys() == then.keys():  # nearly always
                continue
            for key in table if len(table) >= len(then) else {**then, **table}:
                now, before = table.get(key, ABSENT), then.get(key, ABSENT)
                if now is not before and key not in _OTHER and (id(table), key) not in noted:
                    yield module, key, before, now

    def called(self, layer: nn.Module) -> None:
        """A layer is called: from here on it rests on all that has not been assigned to yet."""
        now = len(self._log)
        for table in _tables(layer):
            self._called.setdefault(id(table), now)

    def have_set(self, layer: nn.Module) -> bool:
        """True where a forward has set anything of a layer, though it may have put it back."""
        return id(vars(layer)) in self._written

    def left(self) -> Iterator[str]:
        """What a layer was called with, and is another now: the next run would start from that."""
        for i, table, key, before in self._first():
            if i >= self._called.get(id(table), len(self._log)) and not same(dict.get(table, key, ABSENT), before):
                yield key

    def ends(self) -> Iterator[tuple[dict[str, Any], str, Any, Any]]:
        """What was assigned to or deleted: the dictionary, the key, what it held at planning, and what it holds now."""
        for _, table, key, before in self._first():
            yield table, key, before, dict.get(table, key, ABSENT)
        yield from ((vars(module), key, before, now) for module, key, before, now in self.past())

    def changed(
        self, modules: Iterable[nn.Module], mark: int, owner: nn.Module | None = None, names: Collection[str] = ()
    ) -> bool:
        """True where modules, or what `owner` holds under these names, were not as planned at the journal's `mark`."""
        theirs = {id(table) for module in modules for table in _tables(module)}
        own = {id(table) for table in _tables(owner)} if owner is not None else set()
        with self._undone(mark):
            return any(
                i < mark
                and (id(table) in theirs or (id(table) in own and key in names))
                and not same(dict.get(table, key, ABSENT), before)
                for i, table, key, before in self._first()
            )

    def _first(self) -> list[tuple[int, dict[str, Any], str, Any]]:
        """The first assignment to each key: when it was, and what the key held at planning."""
        first: dict[tuple[int, str], tuple[int, dict[str, Any], str, Any]] = {}
        for i, (table, key, before) in enumerate(self._log):
            first.setdefault((id(table), key), (i, table, key, before))
        return list(first.values())

    @contextmanager
    def _undone(self, mark: int) -> Iterator[None]:
        """Everything as it was when the journal was `mark` long."""
        later: list[Any] = []
        for table, key, before in reversed(self._log[mark:]):
            later.append(dict.get(table, key, ABSENT))
            _put(table, key, before)
        try:
            yield
        finally:
            for (table, key, _), after in zip(self._log[mark:], reversed(later), strict=True):
                _put(table, key, after)


def _tables(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return (vars(module), module._parameters, module._buffers)


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    if value is ABSENT:
        dict.pop(table, key, None)
    else:
        dict.__setitem__(table, key, value)


def same_settings(made: nn.Module, real: nn.Module) -> bool:
    """True where a clone holds the attributes of what it was made of (modules and tensors apart)."""
    now, then = vars(made), vars(real)
    if len(now) != len(then) + (not is_clone(real)) - ("_compiled_call_impl" in then):  # `real` may be a clone, too
        return False
    for key, value in now.items():
        held = then.get(key, ABSENT)
        if value is held or key in _OTHER:
            continue
        if type(value) in _TABLES and type(held) is type(value) and not (value or held):  # a dozen empty ones
            continue
        if not same(value, held):
            return False
    return True


def same(a: Any, b: Any) -> bool:
    """True for one value, and for a clone's copy of it. Proxies are like nothing: asked, they would record."""
    kind = type(a)
    if a is b:
        return True
    if kind is not type(b):
        return issubclass(kind, nn.Module) and issubclass(kind, type(b))  # a shadow, of a class of its own
    if kind in PLAIN:
        return bool(a == b)
    if issubclass(kind, (tuple, list, collections.deque)):
        return len(a) == len(b) and all(map(same, a, b))
    if issubclass(kind, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    return kind in _COPIED and _COPIED[kind](a) == _COPIED[kind](b)


# What clones hold copies of: by what they are recognised.
_COPIED: Mapping[type, Callable[[Any], Any]] = {
    set: len,
    functools.partial: lambda partial: len(partial.args),
    weakref.ReferenceType: lambda reference: reference() is None,
    **dict.fromkeys(weakref.ProxyTypes, lambda _: None),
    types.FunctionType: lambda function: function.__code__,
    types.MethodType: lambda method: method.__func__,
}
