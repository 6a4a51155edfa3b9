"""Values that are no tensors: which objects a graph can take apart, and what generated code can spell."""

from __future__ import annotations

import enum
import types
import weakref
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.graph.containers import NAMED_TUPLE, SEQUENCE, SLICE, TABLE, is_record, kind_of, parts, refill

_SPELT = (
    bool, int, float, complex, str, bytes, range, enum.Enum, type(None), type(...), fx.Node,
    torch.dtype, torch.device, torch.layout, torch.memory_format, torch._ops.OpOverload,
)  # fmt: skip
_SPELT_KINDS = (SLICE, NAMED_TUPLE, SEQUENCE, TABLE)
# The classes of most arguments and settings. Their objects hold no others, and equal ones are interchangeable.
PLAIN = frozenset({bool, int, float, str, type(None), type(...), torch.dtype, torch.device, torch.memory_format})
SHARED = (type, types.FunctionType, types.ModuleType, nn.Module)
_DEEPEST = 8
_DESCRIPTORS = (property, types.MemberDescriptorType, types.GetSetDescriptorType)


def is_object(x: Any) -> bool:
    """True for an object that is described by its attributes.

    Its class is ordinary, and at every depth it holds tensors, plain values, containers, classes and such objects
    alone, each container and object once. Weak references to the object that holds it do not count: torch_geometric's
    storages have them. False for data classes (see `is_record`), and for modules, functions and classes written in C,
    which hold more.
    """
    return _is_ordinary(x) and _is_closed(x, set())


def _is_ordinary(x: Any) -> bool:
    kind = type(x)
    if kind in PLAIN or isinstance(x, (Tensor, *SHARED, *_SPELT)) or is_record(x) or not hasattr(x, "__dict__"):
        return False
    if any(isinstance(getattr(kind, name, None), _DESCRIPTORS) for name in vars(x)):
        return False
    if any(vars(base).get("__slots__") for base in kind.__mro__):  # attributes that are elsewhere
        return False
    try:
        new_object(kind)
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
    if type(x) in (list, tuple, dict):
        return all(is_spelt(key) and _is_closed(item, seen) for key, item in parts(x))
    if not _is_ordinary(x):
        return is_spelt(x)
    own = vars(x).values()
    return all(_is_held_by(x, v()) if type(v) is weakref.ReferenceType else _is_closed(v, seen) for v in own)


def _is_held_by(x: Any, owner: Any) -> bool:
    """True for what an object holds among its attributes, or in a container among these."""
    return any(held is x for field in getattr(owner, "__dict__", {}).values() for held in _objects_in(field))


def with_fields(x: Any, fields: dict[str, Any]) -> Any:
    """An object of the same class with other attributes; its constructor is not called.

    What it holds refers to it where it refers to `x`, by a weak reference.
    """
    copied = new_object(type(x))
    vars(copied).update(fields)
    for name, field in fields.items():
        for held, before in zip(_objects_in(field), _objects_in(vars(x).get(name)), strict=False):
            for key, value in list(vars(held).items()) if held is not before else ():
                if type(value) is weakref.ReferenceType and value() is x:
                    vars(held)[key] = weakref.ref(copied)
    return copied


def own_fields(x: Any) -> dict[str, Any]:
    """An object's attributes, without weak references to what holds it."""
    return {name: value for name, value in vars(x).items() if type(value) is not weakref.ReferenceType}


def _objects_in(x: Any) -> list[Any]:
    held = [v for _, v in parts(x)] if type(x) in (list, tuple, dict) else [x]
    return [v for v in held if not isinstance(v, (Tensor, *SHARED)) and hasattr(v, "__dict__")]


def new_object(kind: type) -> Any:
    """An object without attributes."""
    return (types.SimpleNamespace if issubclass(kind, types.SimpleNamespace) else object).__new__(kind)


LEAVING = frozenset({setattr, refill})  # the calls by which a graph writes into an object that it is given


def is_spelt(x: Any) -> bool:
    """True for what generated code can spell."""
    if isinstance(x, (set, frozenset)):
        return all(map(is_spelt, x))
    if kind_of(type(x)) in _SPELT_KINDS:
        return all(is_spelt(key) and is_spelt(value) for key, value in parts(x))
    return isinstance(x, _SPELT)


def is_settings(x: Any) -> bool:
    """True for an object that holds plain values alone, all the way down: a configuration."""
    return _is_settings(x, 0)


def _is_settings(x: Any, depth: int) -> bool:
    if not ((is_record(x) and hasattr(x, "__dict__")) or _is_ordinary(x)) or depth > _DEEPEST:
        return False
    return all(is_spelt(value) or _is_settings(value, depth + 1) for value in vars(x).values())
