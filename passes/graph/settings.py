"""Settings: attributes of modules that are neither tensors nor submodules, and which of them a trace has read.

A trace specialises the settings that it reads: with another value the model may compute something else. An attribute
that forward writes is state, and one that it never reads (a trainer, a log) does not matter.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import hashlib
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxteleport.passes.graph.arrays import is_array
from fxteleport.passes.graph.containers import field_of, is_record
from fxteleport.passes.graph.contents import Contents
from fxteleport.passes.graph.module_clone import BOOKKEEPING, PATH
from fxteleport.passes.graph.structure import PLAIN

_DEEP = 6
_AS_THEY_ARE = (bool, int, complex, str, bytes, type(None), type(...), range, torch.dtype, torch.layout)


class Setting:
    """A descriptor on the class of a shadow module that reports to the trace when an attribute is read or written.

    Unlike a `__getattribute__`, it costs nothing for other attributes.
    """

    __slots__ = ("name", "owner", "reads")

    def __init__(self, owner: type, name: str, reads: Reads) -> None:
        self.owner, self.name, self.reads = owner, name, reads

    def __get__(self, module: Any, kind: type | None = None) -> Any:
        if module is None:
            return getattr(super(self.owner, kind or self.owner), self.name)
        held = module.__dict__
        if self.name in held:
            value = held[self.name]
            return self.reads.note(held[PATH], self.name, value) if PATH in held else value
        value = getattr(super(self.owner, module), self.name)  # the class's
        if PATH in held:
            value = self.reads.note(held[PATH], self.name, value)
            if self.name in held:  # a `cached_property`
                self.reads.written.add((held[PATH], self.name))
        return value

    def __set__(self, module: Any, value: Any) -> None:
        module.__dict__[self.name] = value
        self.reads.written.add((module.__dict__.get(PATH), self.name))

    def __delete__(self, module: Any) -> None:
        if self.name not in module.__dict__:
            raise AttributeError(self.name)
        del module.__dict__[self.name]
        self.reads.written.add((module.__dict__.get(PATH), self.name))


def note_reads(cls: type, names: Iterable[str], reads: Reads) -> None:
    """Have a shadow class report to `reads` which attributes of these names are read and written."""
    for name in names:
        if name not in BOOKKEEPING and name not in cls.__dict__ and not _rules_over_instances(cls, name):
            setattr(cls, name, Setting(cls, name, reads))


def names_of_class(cls: type) -> set[str]:
    """The names under which the class of a module holds data that its instances may have values of their own for."""
    own = (vars(c) for c in cls.__mro__ if issubclass(c, nn.Module) and not c.__module__.startswith("torch."))
    return {name for held in own for name, x in held.items() if _is_data(name, x)}


def setting_of(module: nn.Module, name: str) -> Any:
    """What a module has under a name: its own, or its class's; None where neither has any."""
    held = vars(module)
    return held[name] if name in held else getattr(type(module), name, None)


def _is_data(name: str, x: Any) -> bool:
    is_table = isinstance(x, functools.cached_property)  # whose values are the instances'
    return is_table or not (name.startswith("__") or isinstance(x, type) or hasattr(type(x), "__get__"))


def _rules_over_instances(cls: type, name: str) -> bool:
    """True for a property and its like, which Python asks before the instance."""
    held = next((vars(c)[name] for c in cls.__mro__ if name in vars(c)), None)
    return hasattr(type(held), "__set__")


class Reads:
    """The attributes of modules that a trace has read, with their contents, and those that it has written.

    Each is named by (path, name).

    Args:
        watch: called with path, name and value at the first read of a value from before the trace; the trace gets what
            it returns.
        running: gives the path of the module whose forward is running.

    Attributes:
        found: those that the trace read before it wrote them: their values are from before the run.
        from_outside: those that were read by the code of a module outside the one that has them.
    """

    def __init__(self, watch: Callable[[str, str, Any], Any], running: Callable[[], str] = str) -> None:
        self._watch, self._running = watch, running
        self._stand_ins: dict[int, Any] = {}  # by the id of what they stand for
        self._read: dict[tuple[str, str], Contents | None] = {}
        self.written: set[tuple[str, str]] = set()
        self.found: set[tuple[str, str]] = set()
        self.from_outside: set[tuple[str, str]] = set()

    def note(self, path: str, name: str, value: Any) -> Any:
        """Note that one is read. Of a list, a set or a dictionary a snapshot is taken: forward may change it later."""
        running = self._running()
        if running != path and not is_at_or_in(running, path):
            self.from_outside.add((path, name))
        if (path, name) not in self._read:
            self._read[path, name] = Contents(value) if type(value) in _FILLED else None
            if (path, name) not in self.written:
                self.found.add((path, name))
                if type(value) not in PLAIN and (given := self._watch(path, name, value)) is not value:
                    self._stand_ins[id(value)] = given
        return self._stand_ins.get(id(value), value) if self._stand_ins else value

    def read(self) -> frozenset[tuple[str, str]]:
        """Those that were read."""
        return frozenset(self._read)

    def changed(self) -> frozenset[tuple[str, str]]:
        """Those that were written, or hold other things than when they were read."""
        return frozenset(self.written | self.filled().keys())

    def filled(self) -> dict[tuple[str, str], Any]:
        """The containers that hold other things than when they were read."""
        return {where: held.container for where, held in self._read.items() if held is not None and held.changed()}


def is_at_or_in(path: str, outer: str) -> bool:
    """True for the path of a module, and of what is in it."""
    return path == outer or not outer or path.startswith(f"{outer}.")


# Those that a clone has of its own, whatever is in them (`module_clone`).
_FILLED = (list, dict, set, collections.deque, collections.OrderedDict, collections.defaultdict)


# -- values ----------------------------------------------------------------------------------------------


def spelled(value: Any, depth: int = _DEEP) -> Any:
    """An immutable description of a value, by which a setting is compared: a copy of the value has the same.

    Of an object that may hold anything (of a class that is no data class, a module, a parameter) it has the class
    alone.
    """
    kind = type(value)
    if isinstance(value, enum.Enum):
        return kind, value.name
    if kind in _AS_THEY_ARE:
        return kind, value
    if kind is float:
        return kind, value.hex()
    if depth == 0:
        return (kind,)
    inner = functools.partial(spelled, depth=depth - 1)
    if isinstance(value, dict):
        return kind, tuple((inner(k), inner(v)) for k, v in value.items())
    if isinstance(value, (set, frozenset)):
        return kind, frozenset(map(inner, value))
    if isinstance(value, (tuple, list)):
        return kind, tuple(map(inner, value))
    if kind is slice:
        return kind, inner((value.start, value.stop, value.step))
    if isinstance(value, Tensor):
        return kind if value.requires_grad else (kind, value.dtype, tuple(value.shape), digest(value))
    if is_array(kind):
        return kind, digest(value)
    if isinstance(value, types.FunctionType):
        closed = tuple(_cell(c) for c in value.__closure__ or ())
        return kind, value.__code__, inner(value.__defaults__), inner(value.__kwdefaults__), inner(closed)
    if isinstance(value, types.MethodType):
        return kind, inner(value.__func__)
    if isinstance(value, functools.partial):
        return kind, inner(value.func), inner(value.args), inner(value.keywords)
    if isinstance(value, (type, types.BuiltinFunctionType)):
        return kind, value.__module__, value.__qualname__
    if is_record(value):
        return kind, tuple((f.name, inner(field_of(value, f.name))) for f in dataclasses.fields(value))
    if kind is types.SimpleNamespace:
        return kind, inner(vars(value))
    return (kind,)


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is not assigned yet
        return None


def digest(tensor: Any) -> str:
    """A hash of the content of a tensor or another array; "" where it cannot be read."""
    if not isinstance(tensor, Tensor):
        is_object = isinstance(tensor, np.ndarray) and tensor.dtype.hasobject
        said = f"{getattr(tensor, 'dtype', '')}{getattr(tensor, 'shape', '')}".encode()
        return "" if is_object else hashlib.blake2b(said + bytes(tensor), digest_size=16).hexdigest()
    if tensor.is_meta or tensor.layout is not torch.strided or type(tensor) not in (Tensor, nn.Parameter):
        return ""
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    array: Any = raw.numpy()
    return hashlib.blake2b(array, digest_size=16).hexdigest()


def said(spelt: Any) -> str:
    """A description (`spelled`) in a few words, the same in every process."""
    if isinstance(spelt, frozenset):
        return f"({', '.join(sorted(map(said, spelt)))})"
    if not isinstance(spelt, tuple):
        return getattr(spelt, "co_name", None) or getattr(spelt, "__name__", None) or str(spelt)
    if len(spelt) == 2 and isinstance(spelt[0], type) and not isinstance(spelt[1], (tuple, frozenset)):
        kind, value = spelt
        return "a tensor" if kind is Tensor else repr(float.fromhex(value) if kind is float else value)
    parts = [said(x) for x in spelt if not isinstance(x, type)]
    inner = [said(x) for x in (spelt[1] if len(spelt) == 2 and isinstance(spelt[1], tuple) else ())]
    kind = spelt[0].__name__ if spelt and isinstance(spelt[0], type) else ""
    return f"{kind}({', '.join(inner or parts)})"
