"""Settings: attributes of modules that are neither tensors of theirs nor parts, and which of them a trace has read.

A trace takes what it reads for good: with another setting, the model may compute something else. What forward itself
writes is state, and what it never reads (a trainer, a log) may be anything.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import types
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.objects import is_record
from fxteleport.passes.shadow import BOOKKEEPING

_MISSING = object()
_DEEP = 6
_AS_THEY_ARE = (bool, int, complex, str, bytes, type(None), type(...), range, torch.dtype, torch.layout)


class Setting:
    """Put on the class of a shadow module: an attribute that tells the tracer when it is read.

    It costs nothing where none is read, unlike a `__getattribute__`.
    """

    __slots__ = ("name", "owner")

    def __init__(self, owner: type, name: str) -> None:
        self.owner, self.name = owner, name

    def __get__(self, module: Any, kind: type | None = None) -> Any:
        if module is None:
            return getattr(super(self.owner, kind or self.owner), self.name)
        held = module.__dict__
        if self.name not in held:
            return getattr(super(self.owner, module), self.name)  # the class's own, or an AttributeError
        if "_path" in held:
            module._tracer.read_settings.add((held["_path"], self.name))
        return held[self.name]

    def __set__(self, module: Any, value: Any) -> None:
        module.__dict__[self.name] = value

    def __delete__(self, module: Any) -> None:
        if module.__dict__.pop(self.name, _MISSING) is _MISSING:
            raise AttributeError(self.name)


def note_reads(cls: type, module: nn.Module) -> None:
    """Have the shadow class of a module tell which of its attributes are read."""
    for name in module.__dict__.keys() - BOOKKEEPING:
        if name not in cls.__dict__ and not _rules_over_instances(cls, name):
            setattr(cls, name, Setting(cls, name))


def _rules_over_instances(cls: type, name: str) -> bool:
    """True for a property and its like, which Python asks before the instance."""
    held = next((vars(c)[name] for c in cls.__mro__ if name in vars(c)), None)
    return hasattr(type(held), "__set__")


def contents(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, dict[str, Any]]]:
    """What modules hold now; lists, sets and dictionaries with what is in them."""
    return [(m, {k: _opened(v) for k, v in vars(m).items()}) for m in modules]


def written(before: list[tuple[nn.Module, dict[str, Any]]], names: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which attributes of modules, by their path and name, are not what they were."""
    held = {m.__dict__["_path"]: (vars(m), old) for m, old in before}
    found = set()
    for path, name in names:
        now, old = held.get(path, ({}, {}))
        was = old.get(name, _MISSING)
        value = _opened(now.get(name, _MISSING))
        same = was is value or (type(was) is _Opened and type(value) is _Opened and was.same(value))
        if not same:
            found.add((path, name))
    return found


class _Opened:
    """A container, and the very objects in it."""

    __slots__ = ("held", "items")

    def __init__(self, held: Any) -> None:
        self.held, self.items = held, list(held.items() if isinstance(held, dict) else held)

    def same(self, other: _Opened) -> bool:
        """True for the same container of the same objects."""
        if self.held is not other.held or len(self.items) != len(other.items):
            return False
        if isinstance(self.held, dict):
            return all(a is c and b is d for (a, b), (c, d) in zip(self.items, other.items, strict=True))
        return all(a is b for a, b in zip(self.items, other.items, strict=True))


def _opened(value: Any) -> Any:
    return _Opened(value) if type(value) in (list, dict, set) else value


# -- values ----------------------------------------------------------------------------------------------


def spelled(value: Any, depth: int = _DEEP) -> Any:
    """A value as something that can be compared, with that of a copy, too, and that no one changes.

    Of what may be anything (an object of a class that is no data class, a module, a parameter) only the kind.
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
        return kind, tuple((f.name, inner(getattr(value, f.name, None))) for f in dataclasses.fields(value))
    if kind is types.SimpleNamespace:
        return kind, inner(vars(value))
    return (kind,)


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is not assigned yet
        return None


def digest(tensor: Tensor) -> str:
    """A hash of what a tensor holds; "" where that is not to be had."""
    if tensor.is_meta or tensor.layout is not torch.strided or type(tensor) not in (Tensor, nn.Parameter):
        return ""
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    array: Any = raw.numpy()
    return hashlib.blake2b(array, digest_size=16).hexdigest()


def said(form: Any) -> str:
    """A spelled value in a few words, the same in every process."""
    if isinstance(form, frozenset):
        return f"({', '.join(sorted(map(said, form)))})"
    if not isinstance(form, tuple):
        return getattr(form, "co_name", None) or getattr(form, "__name__", None) or str(form)
    if len(form) == 2 and isinstance(form[0], type) and not isinstance(form[1], (tuple, frozenset)):
        return repr(float.fromhex(form[1]) if form[0] is float else form[1]) if form[0] is not Tensor else "a tensor"
    parts = [said(x) for x in form if not isinstance(x, type)]
    inner = [said(x) for x in (form[1] if len(form) == 2 and isinstance(form[1], tuple) else ())]
    kind = form[0].__name__ if form and isinstance(form[0], type) else ""
    return f"{kind}({', '.join(inner or parts)})"
