"""Shadow modules: clones whose calls go to the trace, and whose tensors are proxies, created on first use."""

from __future__ import annotations

import functools
import itertools
import operator
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from fxteleport.passes.capture.attribute_journal import Writes
from fxteleport.passes.capture.call_stack import CallStack
from fxteleport.passes.capture.exported_modules import without_checks
from fxteleport.passes.capture.held_objects import HeldObjects
from fxteleport.passes.capture.identity import asks_for_class, set_class
from fxteleport.passes.capture.protocols import Calls
from fxteleport.passes.capture.tensor_table import TensorTable
from fxteleport.passes.capture.training_mode import Modes
from fxteleport.passes.graph.code_state import (
    asking_for_types,
    imported_by,
    imports_of,
    reads_past_attributes,
    tested_for_none,
)
from fxteleport.passes.graph.leaf_modules import is_leaf
from fxteleport.passes.graph.module_clone import BOOKKEEPING, PATH, clone, is_clone, modules_of, path_of
from fxteleport.passes.graph.settings import Reads, names_of_class, note_reads


class Shadows:
    """Makes the shadow modules of one trace, and reports what their code reads and writes.

    Attributes:
        writes: a journal of the assignments to shadows.
        reads: which settings were read, and which were written.
        modes: takes reads and writes of modes while the trace runs.
        calls: takes the calls of modules and of their methods.
    """

    def __init__(
        self,
        tensors: TensorTable,
        modes: Modes,
        writes: Writes,
        calls: Calls,
        held: HeldObjects,
        stack: CallStack,
    ) -> None:
        self.tensors, self.modes, self.writes, self.calls = tensors, modes, writes, calls
        self.reads, self.read_code = Reads(held.read, lambda: stack.path), held.read_code
        self.finished = False
        self._of: dict[int, nn.Module] = {}
        self._classes: dict[type, type] = {}

    def make(self, module: nn.Module, training: bool, whole: Iterable[str] = ()) -> nn.Module:
        """The shadow of a model, with that of each of its parts.

        Args:
            whole: paths of modules that are kept whole; their code does not read shadows.
        """
        untraced = tuple(f"{path}." if path else "" for path in whole)
        made = clone(
            module,
            lambda name, _: _Lazy(self.tensors, name),
            class_of=self._class_of,
            table=functools.partial(Table, self.writes),
            training=training,
        )
        without_checks(made)
        for shadow in modules_of(made).values():
            held = vars(shadow)
            is_traced = not f"{path_of(shadow)}.".startswith(untraced)
            if is_traced and reads_past_attributes(class_of_shadow(shadow), held.values()):
                for name in held.keys() - BOOKKEEPING - {PATH}:
                    self.reads.note(path_of(shadow), name, held[name])
            if isinstance(shadow, nn.RNNBase) and "parametrizations" in shadow._modules:
                refs = [ref and _Reference(self.tensors, ref) for ref in vars(shadow)["_flat_weight_refs"]]
                vars(shadow)["_flat_weight_refs"] = refs
        return made

    def link(self, real: nn.Module, shadow: nn.Module) -> None:
        """Have calls of a user's module go to its shadow."""
        self._of[id(real)] = shadow

    def of(self, real: nn.Module) -> nn.Module | None:
        """The shadow of one of the user's own modules."""
        return self._of.get(id(real))

    @property
    def asking(self) -> list[dict[str, Any]]:
        """The globals of the shadows' code that names `type`."""
        tables = [table for cls in self._classes for table in asking_for_types(cls)]
        for shadow in self._of.values():
            if types.FunctionType in map(type, vars(shadow).values()):
                tables += asking_for_types(class_of_shadow(shadow), vars(shadow).values())
        return list({id(table): table for table in tables}.values())

    @property
    def imports(self) -> list[tuple[dict[str, Any], str]]:
        """Globals of the code of shadows, and the names under which it calls functions of Python's and torch's."""
        held = [x for shadow in self._of.values() for x in vars(shadow).values() if type(x) is types.FunctionType]
        tables = [*itertools.chain.from_iterable(map(imported_by, self._classes)), *imports_of(held)]
        found = {(id(table), name): (table, name) for table, names in tables for name in names}
        return list(found.values())

    @property
    def tested(self) -> frozenset[str]:
        """The names that the code of shadows compares with None."""
        return frozenset[str]().union(*map(tested_for_none, self._classes))

    def finish(self) -> None:
        """End the trace: shadows that Python still refers to become plain modules, and are released here."""
        self.finished = True
        self._of.clear()

    def _class_of(self, module: nn.Module) -> type:
        cls = type(module)
        known = self._classes.get(cls)
        if known is None:
            members: dict[str, Any] = {name: _helper(fn) for name, fn in _helpers(cls).items()}
            members |= {"_shadows": self, "_shadowed": cls, "__module__": cls.__module__}
            if not any("training" in vars(c) for c in cls.__mro__):
                members["training"] = _mode_attribute(self)
            known = self._classes[cls] = type(cls.__name__, (_TracedCall, cls), members)
            note_reads(known, names_of_class(cls), self.reads)
            self.read_code(cls, known)
        elif is_leaf(module):  # all of one class have the same attributes
            return known
        note_reads(known, vars(module), self.reads)
        return known


def class_of_shadow(shadow: nn.Module) -> type:
    """The user's or torch's class that a shadow's class is derived from."""
    cls: type = type(shadow)._shadowed  # type: ignore[attr-defined]
    return cls


def reassigned(module: nn.Module) -> dict[str, Any]:
    """The values by which forward has replaced a clone's parameters and buffers, by dotted name."""
    tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
    held = [(name, x) for table in tables for name, x in dict.items(table) if type(x) is not _Lazy and x is not None]
    if not held or not is_clone(module):
        return {}
    path = path_of(module)
    return {f"{path}.{name}" if path else name: x for name, x in held}


class _Lazy:
    """Stands in a clone's table for a tensor whose proxy is created on first use."""

    __slots__ = ("_tensors", "name")

    def __init__(self, tensors: TensorTable, name: str) -> None:
        self._tensors, self.name = tensors, name

    def proxy(self) -> Any:
        known = self._tensors.read(self.name)
        return self._tensors.attribute(self.name) if known is None else known

    def is_of(self, value: Any) -> bool:
        """True for the proxy of this tensor."""
        return value is not None and value is self._tensors.read(self.name)


def holds_its_own(module: nn.Module) -> bool:
    """True where forward has not replaced any of a shadow's parameters and buffers."""
    return all(table.is_its_own() for table in (module._parameters, module._buffers) if type(table) is Table)


class _Reference:
    """A weak reference to a weight, which returns its proxy.

    A recurrent layer compares each weight with that of the last run. Reading a computed weight (spectral norm) computes
    it, and code that counts these computations must see them.
    """

    def __init__(self, tensors: TensorTable, reference: Callable[[], Any]) -> None:
        self._tensors, self._reference = tensors, reference

    def __call__(self) -> Any:
        return self._tensors.own(self._reference())


@dataclass(frozen=True)
class InBuffers:
    """A value that forward leaves among a module's buffers."""

    value: Any


class Table(dict):  # type: ignore[type-arg]
    """A module's table of parameters or buffers, which replaces `_Lazy` entries by proxies when they are read.

    Assignments are noted. Where the original tensor is assigned again (by `torch.func.functional_call`), its `_Lazy`
    entry is restored.
    """

    def __init__(self, writes: Writes, given: dict[str, Any]) -> None:
        super().__init__(given)
        self._writes, self._given = writes, given
        self._missed: set[str] = set()

    def is_its_own(self) -> bool:
        return len(self) == len(self._given) and all(map(operator.is_, dict.values(self), self._given.values()))

    def __setitem__(self, key: str, value: Any) -> None:
        own = self._given.get(key)
        if type(own) is _Lazy and own.is_of(value):
            value = own
        if value is not dict.get(self, key, self):
            self._writes.note(self, key)
            dict.__setitem__(self, key, value)

    def __delitem__(self, key: str) -> None:
        self._writes.note(self, key)
        dict.__delitem__(self, key)

    def pop(self, key: str, *default: Any) -> Any:
        value = self.get(key, *default) if key in self or default else self[key]
        if key in self:
            del self[key]
        return value

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def made(self, are_missed: Callable[[str], bool]) -> Iterator[tuple[str, Any]]:
        """The entries that forward has added.

        Args:
            are_missed: whether forward has looked up an attribute before it existed.
        """
        for key, value in dict.items(self):
            if self._given.get(key) is None and value is not None and (key in self._missed or are_missed(key)):
                yield key, value

    def __getitem__(self, key: str) -> Any:
        value = dict.__getitem__(self, key)
        if value is None:
            self._missed.add(key)
        return value.proxy() if type(value) is _Lazy else value

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self._missed.add(key)
            return default
        return self[key]

    def items(self) -> Any:
        return [(k, self[k]) for k in self]

    def values(self) -> Any:
        return [self[k] for k in self]


class _TracedCall:
    """Mixed into the class of every shadow module: a call goes to the trace."""

    _shadows: Shadows

    @property
    def __class__(self) -> Any:
        """The user's class, to code of the model's own that reads it."""
        return class_of_shadow(self) if asks_for_class(sys._getframe(1)) else type(self)  # type: ignore[arg-type]

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        set_class(self, kind)

    def __init_subclass__(cls) -> None:
        """Do nothing: a base class that registers or checks its subclasses must not see a shadow's class."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)  # type: ignore[misc]
        except AttributeError:  # a missing attribute counts as read: forward may set it for the next run
            if is_clone(self):  # type: ignore[arg-type]
                self._shadows.reads.note(path_of(self), name, None)  # type: ignore[arg-type]
            raise

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "training":
            self._shadows.writes.note(vars(self), name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._shadows.writes.note(vars(self), name)
        super().__delattr__(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = super().__call__  # type: ignore[misc]
        if not is_clone(self):  # type: ignore[arg-type]
            return forward(*args, **kwargs)  # forward has created it from a shadow: a slice of a `Sequential`, say
        return self._shadows.calls.module(self, forward, args, kwargs)  # type: ignore[arg-type]


def _helpers(cls: type) -> dict[str, Any]:
    """The methods that a user's class adds to `nn.Module`."""
    own = [c for c in cls.__mro__ if issubclass(c, nn.Module) and not c.__module__.startswith("torch.")]
    return {
        name: member
        for c in reversed(own)
        for name, member in vars(c).items()
        if isinstance(member, types.FunctionType) and name != "forward" and not name.startswith("__")
    }


def _helper(fn: types.FunctionType) -> Callable[..., Any]:
    @functools.wraps(fn)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_clone(self):
            return fn(self, *args, **kwargs)
        return self._shadows.calls.method(self, fn, args, kwargs)

    return method


def _mode_attribute(shadows: Shadows) -> property:
    """The property `training` of a shadow module, which reports reads and writes to the trace."""

    def get(module: nn.Module) -> bool:
        mode: bool = vars(module)["training"]
        if not is_clone(module) or shadows.finished:
            return mode
        return shadows.modes.read(module, mode, sys._getframe(1))

    def put(module: nn.Module, mode: bool) -> None:
        if is_clone(module) and not shadows.finished:
            shadows.modes.write(module, mode)
        vars(module)["training"] = mode

    return property(get, put)
