"""Reach: which of a model's tensors the code of an opaque leaf can read beside those registered in the leaf itself.

The inside of an opaque leaf is not in the graph. Its code may read whatever it can reach (through lists, closures,
partials, objects, weak references, globals, hooks), in either mode and on any data; so references are followed, and
nothing is run. The tensors that can be reached are pinned, and clones of the leaf refer to clones of what it reaches
(`module_clone.py`).
"""

from __future__ import annotations

import argparse
import collections
import dis
import functools
import inspect
import queue
import sys
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxteleport.passes.graph.structure import PLAIN


@dataclass(frozen=True, slots=True)
class Reached:
    """What code can read outside its own module: modules of the model by path, tensors by name.

    `carriers` are the ids of the objects that lead to those, or to the module's own parts.
    """

    modules: Mapping[str, nn.Module]
    tensors: Mapping[str, Tensor]
    carriers: frozenset[int]

    def __bool__(self) -> bool:
        return bool(self.modules or self.tensors)


class Reach:
    """Finds what can be reached in one model.

    Args:
        parts: its modules by path.
        names: the name of each of its tensors, by id.
    """

    def __init__(self, parts: Mapping[str, nn.Module], names: Mapping[int, str]) -> None:
        self._paths = {id(module): path for path, module in reversed(list(parts.items()))}
        self._names = names
        self._code: dict[type, list[Any]] = {}

    def of(self, *roots: Any) -> Reached:
        """What can be reached from modules, functions or classes, outside the modules themselves."""
        inside = {id(part) for root in roots if isinstance(root, nn.Module) for part in root.modules()}
        modules: dict[str, nn.Module] = {}
        tensors: dict[str, Tensor] = {}
        waiting = [(root, 0) for root in roots]
        holders: dict[int, list[int]] = {}  # by the id of an object, the ids of those that refer to it
        goals: list[int] = []
        held: list[Any] = []  # keeps objects that were created on the way alive: their ids must stay unique
        while waiting:
            x, holder = waiting.pop()
            if type(x) in PLAIN:
                continue
            known = holders.setdefault(id(x), [])
            known.append(holder)
            if len(known) > 1:
                continue
            held.append(x)
            if isinstance(x, Tensor):
                if id(x) in self._names:
                    tensors[self._names[id(x)]] = x
                    goals.append(id(x))
            elif isinstance(x, nn.Module) and type(x) not in weakref.ProxyTypes:
                goals.append(id(x))
                if id(x) in self._paths and id(x) not in inside:
                    modules[self._paths[id(x)]] = x
                waiting += [(y, id(x)) for y in self._held_by(x)]
            else:
                waiting += [(y, id(x)) for y in _referred(x)]
        carriers: set[int] = set()
        while goals:
            new = {holder for held in goals for holder in holders.get(held, ())} - carriers
            carriers |= new
            goals = list(new)
        return Reached(modules, tensors, frozenset(carriers))

    def of_method(self, owner: nn.Module, method: types.FunctionType) -> Reached:
        """What a method can reach, its own module's tensors among it, as far as its code names them."""
        functions, names = self.code_of_method(owner, method)
        everything = not names.isdisjoint(_BY_ANY_NAME)
        tables = (vars(owner), owner._parameters, owner._buffers, owner._modules)
        held = [v for t in tables for k, v in t.items() if k in names or (everything and t is not tables[0])]
        return self.of(*functions, held)

    def parts_of_method(self, owner: nn.Module, method: types.FunctionType) -> tuple[list[nn.Module], set[str]]:
        """The submodules that a method may call, at any depth, and the names in its code."""
        _, names = self.code_of_method(owner, method)
        everything = not names.isdisjoint(_BY_ANY_NAME)
        parts = [m for k, m in owner._modules.items() if m is not None and (everything or k in names)]
        inner = [m for part in parts for m in part.modules()]
        return ([owner, *inner] if everything else inner), names

    def code_of_method(self, owner: nn.Module, method: types.FunctionType) -> tuple[list[types.FunctionType], set[str]]:
        """A method, with those of its class that it may call, and all names in their code."""
        names: set[str] = set()
        waiting, functions = [method], []
        while waiting:
            function = waiting.pop()
            functions.append(function)
            new = {name for code in codes(function.__code__) for name in code.co_names} - names
            names |= new
            members = (getattr(type(owner), name, None) for name in new)
            members = (m.fget if isinstance(m, property) else m for m in members)
            waiting += [m for m in members if isinstance(m, types.FunctionType) and not is_library(m.__module__)]
        return functions, names

    def _held_by(self, module: nn.Module) -> Iterator[Any]:
        """A module's parts and attributes, and what the code of its class refers to."""
        for key, value in vars(module).items():
            kind = type(value)
            if kind not in PLAIN and (kind not in _BUILTIN or value) and key not in ("_parameters", "_buffers"):
                yield value
        cls = type(module)
        if cls not in self._code:
            self._code[cls] = [x for x in _referred(cls) if not is_library(getattr(x, "__module__", None))]
        yield from self._code[cls]


_LIBRARIES = frozenset({"torch", "numpy", "fxteleport", *sys.stdlib_module_names}) - {"__main__"}
_BUILTIN = frozenset({dict, list, tuple, set, collections.OrderedDict})  # of these, a module has a dozen empty ones
_ITEMS = (list, tuple, set, frozenset, collections.deque, weakref.WeakSet)
_TABLES = (dict, types.MappingProxyType, weakref.WeakValueDictionary, weakref.WeakKeyDictionary)
# Attributes by which code gets at others that it does not name.
_BY_ANY_NAME = frozenset(
    "getattr attrgetter __dict__ vars __getattr__ __getattribute__ get_submodule get_parameter get_buffer modules"
    " named_modules children named_children parameters named_parameters buffers named_buffers state_dict".split()
)
_CACHED = type(functools.cache(len))
# Python's own classes whose objects hold what their attributes are.
NAMESPACES = (
    types.SimpleNamespace, argparse.Namespace, collections.UserDict, collections.UserList, collections.ChainMap,
    queue.Queue,
)  # fmt: skip


def is_library(name: Any) -> bool:
    """True for a module of torch, numpy, Python or this package, by its name."""
    return isinstance(name, str) and name.partition(".")[0] in _LIBRARIES


def _referred(x: Any) -> Iterable[Any]:
    """The objects that an object refers to."""
    if type(x) in weakref.ProxyTypes:
        return (x.__repr__.__self__,)
    items, table = _kind(x, _ITEMS), _kind(x, _TABLES)
    if items is not None:
        return [*items.__iter__(x), *_own_fields(x)]
    if table is not None:
        return [*table.keys(x), *table.values(x), *_own_fields(x)]
    if isinstance(x, types.FunctionType):
        return _referred_by_function(x)
    if isinstance(x, types.MethodType):
        return (x.__self__, x.__func__)
    if isinstance(x, functools.partial):
        return (x.func, x.args, x.keywords)
    if isinstance(x, weakref.ReferenceType):
        return (x(),)
    if isinstance(x, (staticmethod, classmethod)):
        return (x.__func__,)
    if isinstance(x, property):
        return (x.fget,)
    if isinstance(x, functools.cached_property):
        return (x.func,)
    if isinstance(x, type):
        return [v for c in x.__mro__ if not is_library(c.__module__) for v in vars(c).values()]
    if isinstance(x, _CACHED):
        return (x.__wrapped__,)
    if isinstance(x, types.ModuleType) or (is_library(type(x).__module__) and not isinstance(x, NAMESPACES)):
        return ()
    return [*_own_fields(x), type(x)]


def _kind(x: Any, kinds: tuple[Any, ...]) -> Any:
    """The built-in container class of an object: its methods are called, since a subclass's may load items first."""
    return next((kind for kind in kinds if isinstance(x, kind)), None)


def _own_fields(x: Any) -> Iterator[Any]:
    return (getattr(x, name, None) for name in fields_of(x))


def fields_of(x: Any) -> list[str]:
    """The names of an object's own attributes."""
    slots = [vars(c).get("__slots__", ()) for c in type(x).__mro__]
    names = [name for own in slots for name in ((own,) if isinstance(own, str) else own)]
    held = getattr(x, "__dict__", ())
    held = held if isinstance(held, (Mapping, tuple)) else ()  # a mock has any attribute that it is asked for
    return [*held, *(n for n in names if hasattr(x, n) and n not in ("__dict__", "__weakref__"))]


def _referred_by_function(function: types.FunctionType) -> Iterator[Any]:
    """What a function holds, and what its code reads of its module's globals."""
    yield from (function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it is not assigned yet
            continue
    if is_library(function.__module__):
        return
    for code in codes(function.__code__):
        names = [n for n in code.co_names if _may_hold(function.__globals__.get(n))]
        if names:
            yield from _read(code, function.__globals__, names)


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code, and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def _may_hold(x: Any) -> bool:
    """True for an object through which code may reach a tensor of the model."""
    if type(x) in PLAIN or (isinstance(x, types.ModuleType) and is_library(x.__name__)):
        return False
    is_code = inspect.isroutine(x) or isinstance(x, type)
    return not (is_code and is_library(getattr(x, "__module__", None)))


def _read(code: types.CodeType, table: Mapping[str, Any], names: list[str]) -> Iterator[Any]:
    """The globals that code loads; of a module, the attributes that it loads of it."""
    at: Any = None
    for loads_attribute, name in _loads(code):
        if not loads_attribute and name in names:
            at = table[name]
        elif loads_attribute and isinstance(at, types.ModuleType):
            at = vars(at).get(name)
        else:
            continue
        if not isinstance(at, types.ModuleType) and _may_hold(at):
            yield at


@functools.lru_cache(maxsize=4096)
def _loads(code: types.CodeType) -> list[tuple[bool, str]]:
    """The globals and attributes that code loads in turn: whether it is an attribute, and the name."""
    kinds = {"LOAD_ATTR": True, "LOAD_METHOD": True, "LOAD_GLOBAL": False, "LOAD_NAME": False}
    return [(kinds[step.opname], step.argval) for step in dis.get_instructions(code) if step.opname in kinds]
