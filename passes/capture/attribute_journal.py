"""A journal of what a forward assigns to its modules during a trace.

A leaf (a layer, or a module that is kept whole) can be recorded as one node only if forward has not changed it: the
emitted network has the leaf as it was at planning. So each assignment to a shadow (an attribute, a parameter, a buffer)
is noted with the value before.
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
    """A journal of the assignments to shadows: the dictionary, the key, and the value before."""

    def __init__(self) -> None:
        self._log: list[tuple[dict[str, Any], str, Any]] = []
        self._written: set[int] = set()
        self._called: dict[int, int] = {}  # when a layer that owns the dictionary was first called
        self._started: list[tuple[nn.Module, dict[str, Any]]] = []

    def __len__(self) -> int:
        return len(self._log)

    def note(self, table: dict[str, Any], key: str) -> None:
        """Note that a key is about to be assigned or deleted."""
        self._log.append((table, key, dict.get(table, key, ABSENT)))
        self._written.add(id(table))

    def start(self, modules: Iterable[nn.Module]) -> None:
        """Take snapshots before forward runs: a change without an assignment to a shadow was made past it."""
        self._started = [(module, dict(vars(module))) for module in modules]

    def past(self) -> Iterator[tuple[nn.Module, str, Any, Any]]:
        """What forward has set past assignments (`vars(self)["n"] = 1`): module, key, value before, value now."""
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
        """Note that a layer is called: from here on the trace assumes its attributes as they are now."""
        now = len(self._log)
        for table in _tables(layer):
            self._called.setdefault(id(table), now)

    def have_set(self, layer: nn.Module) -> bool:
        """True where forward has set an attribute of a layer, even if it has restored it."""
        return id(vars(layer)) in self._written

    def left(self) -> Iterator[str]:
        """The attributes that have changed since their layer was called: the next run starts with other values."""
        for i, table, key, before in self._first():
            if i >= self._called.get(id(table), len(self._log)) and not same(dict.get(table, key, ABSENT), before):
                yield key

    def ends(self) -> Iterator[tuple[dict[str, Any], str, Any, Any]]:
        """All keys that were assigned or deleted: the dictionary, the key, the value at planning, and the value now."""
        for _, table, key, before in self._first():
            yield table, key, before, dict.get(table, key, ABSENT)
        yield from ((vars(module), key, before, now) for module, key, before, now in self.past())

    def changed(
        self, modules: Iterable[nn.Module], mark: int, owner: nn.Module | None = None, names: Collection[str] = ()
    ) -> bool:
        """True where modules, or attributes `names` of `owner`, differed from planning at the journal's `mark`."""
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
        """The first assignment to each key: its number, the dictionary, the key, and the value at planning."""
        first: dict[tuple[int, str], tuple[int, dict[str, Any], str, Any]] = {}
        for i, (table, key, before) in enumerate(self._log):
            first.setdefault((id(table), key), (i, table, key, before))
        return list(first.values())

    @contextmanager
    def _undone(self, mark: int) -> Iterator[None]:
        """While this lasts, all assignments after the first `mark` are undone."""
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
    """True where a clone has the attributes of its original (modules and tensors apart)."""
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
    """True for one value, and for a clone's copy of it. False for proxies, whose comparison would be recorded."""
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


# The classes of which clones have copies: what two copies are compared by.
_COPIED: Mapping[type, Callable[[Any], Any]] = {
    set: len,
    functools.partial: lambda partial: len(partial.args),
    weakref.ReferenceType: lambda reference: reference() is None,
    **dict.fromkeys(weakref.ProxyTypes, lambda _: None),
    types.FunctionType: lambda function: function.__code__,
    types.MethodType: lambda method: method.__func__,
}
