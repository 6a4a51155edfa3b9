"""State of code: what a class's code may write to outside its objects.

Attributes of classes, globals, and the defaults and closures of functions.
"""

from __future__ import annotations

import dis
import functools
import itertools
import opcode
import types
import weakref
from collections.abc import Container, Iterable, Iterator
from typing import Any, NamedTuple

from fxteleport.passes.graph.arrays import is_array
from fxteleport.passes.graph.contents import FILLED
from fxteleport.passes.graph.holders import Namespace
from fxteleport.passes.graph.reachable import codes, is_library
from fxteleport.passes.graph.structure import PLAIN

_STORES, _SETS = opcode.opmap["STORE_GLOBAL"], frozenset({"STORE_ATTR", "DELETE_ATTR"})
_PAST_ATTRIBUTES = frozenset({"__dict__", "vars"})
_UNNAMED = frozenset({"__getattr__", "__getattribute__", "__setattr__", "__delattr__", "__call__"})  # Python calls them
_BY_NAME = _PAST_ATTRIBUTES | {"setattr", "delattr", "__setattr__"}


class _Known(NamedTuple):
    state: tuple[Any, ...]
    asking: tuple[dict[str, Any], ...]
    names: frozenset[str]
    tested: frozenset[str]
    imports: tuple[tuple[dict[str, Any], tuple[str, ...]], ...]
    functions: tuple[types.FunctionType, ...]


_known: weakref.WeakKeyDictionary[type, _Known] = weakref.WeakKeyDictionary()


def state_of(cls: type) -> tuple[Any, ...]:
    """The namespaces and functions in which a class's `forward`, and what it calls by name, may keep state."""
    return _known_of(cls).state


def reads_past_attributes(cls: type, held: Iterable[Any] = ()) -> bool:
    """True where that code, or a function in `held`, reads an object's `__dict__`, past its attributes."""
    functions = (x for x in held if type(x) is types.FunctionType)
    return not (
        _PAST_ATTRIBUTES.isdisjoint(_known_of(cls).names)
        and all(_PAST_ATTRIBUTES.isdisjoint(_named(f.__code__)[0]) for f in functions)
    )


def may_set(cls: type, name: str) -> bool:
    """True where that code sets an attribute of this name on any object, or sets attributes by computed names."""
    known = _known_of(cls)
    return not _BY_NAME.isdisjoint(known.names) or any(name in _set_by(f.__code__) for f in known.functions)


def asking_for_types(cls: type, held: Iterable[Any] = ()) -> Iterator[dict[str, Any]]:
    """The globals of that code, and of the functions in `held`, where the code names `type`."""
    yield from _known_of(cls).asking
    yield from (x.__globals__ for x in held if type(x) is types.FunctionType and "type" in _named(x.__code__)[0])


def tested_for_none(cls: type) -> frozenset[str]:
    """The names that this code compares with None; "" where it compares something that it has no name for."""
    return _known_of(cls).tested


def imported_by(cls: type) -> tuple[tuple[dict[str, Any], tuple[str, ...]], ...]:
    """The globals of that code, each with the names under which it calls functions of Python's and torch's."""
    return _known_of(cls).imports


def imports_of(functions: Iterable[types.FunctionType]) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """The same of functions."""
    named: dict[int, tuple[dict[str, Any], set[str]]] = {}
    for function in functions:
        table = function.__globals__
        found = named.setdefault(id(table), (table, set()))[1]
        found |= {n for n in _named(function.__code__)[0] if n in table and _is_of_library(table[n])}
    return ((table, tuple(sorted(names))) for table, names in named.values() if names)


def _is_of_library(x: Any) -> bool:
    return type(x) in (types.BuiltinFunctionType, types.FunctionType, type) and is_library(x.__module__)


def _known_of(cls: type) -> _Known:
    if cls not in _known:
        names: set[str] = set()
        functions: dict[int, types.FunctionType] = {}
        state = tuple(_collect(cls, names, functions))
        asking = {id(f.__globals__): f.__globals__ for f in functions.values() if "type" in _named(f.__code__)[0]}
        kept = frozenset[str]().union(*(_set_by(f.__code__) for f in functions.values()))
        tested = (step for f in functions.values() for step in _compared_with_none(f.__code__))
        tests = frozenset(name for step in tested if (name := _name_of(step, kept)) is not None)
        _known[cls] = _Known(
            state,
            tuple(asking.values()),
            frozenset(names),
            tests,
            tuple(imports_of(functions.values())),
            tuple(functions.values()),
        )
    return _known[cls]


def _collect(cls: type, names: set[str], functions: dict[int, types.FunctionType]) -> Iterator[Any]:
    """The state of a class's code (`state_of`). Fills `names` and `functions` with those of the code."""
    spaces: dict[int, tuple[dict[str, Any], set[str]]] = {}
    classes = [c for c in cls.__mro__ if not is_library(c.__module__)]
    waiting: list[Any] = [getattr(cls, "forward", None)]
    waiting += [vars(c)[name] for c in classes for name in _UNNAMED & vars(c).keys()]
    while waiting:
        function = waiting.pop()
        function = getattr(function, "__wrapped__", function)
        if type(function) is not types.FunctionType or id(function) in functions or is_library(function.__module__):
            continue
        functions[id(function)] = function
        named, stores = _named(function.__code__)
        waiting += [_code_of(vars(c)[name]) for name in named - names for c in classes if name in vars(c)]
        names |= named
        table = function.__globals__
        loaded = {name: table[name] for name in named if name in table}
        waiting += [x for x in loaded.values() if type(x) is types.FunctionType]
        classes += [
            x for x in loaded.values() if isinstance(x, type) and not is_library(x.__module__) and x not in classes
        ]
        _, kept = spaces.setdefault(id(table), (table, set()))
        kept |= {name for name, x in loaded.items() if _may_change(x) or (stores and type(x) in PLAIN)}
    with_attributes = frozenset().union(*(_given_attributes(f.__code__) for f in functions.values()))
    yield from (f for f in functions.values() if _holds(f) or f.__name__ in with_attributes)
    yield from (Namespace(c, of_class) for c in classes if (of_class := _data(c, names)))
    yield from (Namespace(table, frozenset(kept)) for table, kept in spaces.values() if kept)


@functools.lru_cache(maxsize=16384)
def _named(code: types.CodeType) -> tuple[frozenset[str], bool]:
    """The names of globals and attributes in code, and whether it stores globals."""
    nested = list(codes(code))
    return frozenset(n for c in nested for n in c.co_names), any(_STORES in c.co_code[::2] for c in nested)


@functools.lru_cache(maxsize=16384)
def _set_by(code: types.CodeType) -> frozenset[str]:
    """The names of the attributes that code sets or deletes."""
    steps = (step for c in codes(code) for step in dis.get_instructions(c) if step.opname in _SETS)
    return frozenset(step.argval for step in steps)


@functools.lru_cache(maxsize=16384)
def _given_attributes(code: types.CodeType) -> frozenset[str]:
    """The names of globals that code sets attributes of (`count.calls = 1`)."""
    pairs = (pair for c in codes(code) for pair in itertools.pairwise(dis.get_instructions(c)))
    return frozenset(a.argval for a, b in pairs if a.opname == "LOAD_GLOBAL" and b.opname in _SETS)


@functools.lru_cache(maxsize=16384)
def _compared_with_none(code: types.CodeType) -> tuple[dis.Instruction, ...]:
    """The steps of code that load what is compared with None."""
    found = []
    for inner in codes(code):
        steps = [step for step in dis.get_instructions(inner) if step.opname != "CACHE"]
        for before, step, after in zip(steps, steps[1:], [*steps[2:], None], strict=False):
            is_none = step.opname == "LOAD_CONST" and step.argval is None
            if ("JUMP" in step.opname and step.opname.endswith("NONE")) or (
                is_none and after is not None and after.opname in ("IS_OP", "COMPARE_OP")
            ):
                found.append(before)
    return tuple(found)


def _name_of(step: dis.Instruction, kept: Container[str]) -> str | None:
    """The name of a local variable that a step loads; "" for what has none; None for what the call does not decide.

    Args:
        kept: the attributes that the code sets.
    """
    if step.opname.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLOSURE")):
        return step.argval if isinstance(step.argval, str) else step.argval[-1]
    is_of_others = step.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_GLOBAL") and step.argval not in kept
    return None if is_of_others else ""


def _code_of(member: Any) -> Any:
    if isinstance(member, (staticmethod, classmethod)):
        return member.__func__
    return member.fget if isinstance(member, property) else member


def _may_change(x: Any) -> bool:
    """True for what is mutable: a container, an array, or an object of the user's."""
    kind = type(x)
    if issubclass(kind, FILLED) or is_array(kind):
        return True
    fixed = (type, types.FunctionType, types.ModuleType, types.BuiltinFunctionType)
    return kind not in PLAIN and not issubclass(kind, fixed) and not is_library(kind.__module__)


def _data(cls: type, names: set[str]) -> frozenset[str]:
    """The attributes of a class that code names, but its methods and their like."""
    return frozenset(
        k for k, v in vars(cls).items() if k in names and not (hasattr(v, "__get__") or k.startswith("__"))
    )


def _holds(function: types.FunctionType) -> bool:
    """True for a function with a closure of data, or with defaults that may change."""
    inside = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return bool(function.__closure__) or not PLAIN.issuperset(map(type, inside))
