"""Outputs: what a network returns, as tensors and plain values by path."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list

from fxteleport.passes.errors import InputError
from fxteleport.passes.graph.containers import kind_of, parts, spelled
from fxteleport.passes.rules.operand import carries

_CLOSED = (type, types.FunctionType, types.MethodType, types.ModuleType, nn.Module)  # compared without their contents
_KINDS: dict[Any, str] = {immutable_list: "list", immutable_dict: "dict"}


@dataclasses.dataclass(frozen=True, slots=True)
class Container:
    """The class of a container, whose items have paths of their own."""

    kind: str
    size: int

    def __str__(self) -> str:
        return f"a {self.kind} of {self.size}"


Outputs = dict[str, Any]  # path -> a tensor, a plain value, or a `Container`


def outputs(x: Any) -> Outputs:
    """Everything that a structure holds, by path ("output.logits", "output['a'][0]")."""
    return dict(_walk(x, "output", ()))


def _walk(x: Any, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(x, np.ndarray) and x.dtype.kind in "biufc":
        x = torch.from_numpy(np.ascontiguousarray(x))
    elif isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, Tensor) and x.is_nested:
        x = list(x.unbind())
    if isinstance(x, Tensor):
        yield path, x
        return
    parts = None if id(x) in above or isinstance(x, _CLOSED) else _parts(x)
    if parts is None:
        yield path, x
        return
    yield path, Container(_KINDS.get(type(x)) or type(x).__qualname__, len(parts))
    for name, part in parts.items():
        yield from _walk(part, path + name, (*above, id(x)))


def _parts(x: Any) -> dict[str, Any] | None:
    """The items of a container, by how code spells them; None for a leaf."""
    if isinstance(x, Mapping):
        return {f"[{k!r}]": v for k, v in x.items()}
    if kind_of(type(x)) is not None and type(x) is not slice:
        return {spelled(x, key): value for key, value in parts(x)}
    if isinstance(x, BaseException):
        return None
    slots = [name for c in type(x).__mro__ for name in _names(vars(c).get("__slots__", ()))]
    fields = {f".{name}": getattr(x, name) for name in slots if name != "__dict__" and hasattr(x, name)}
    return {**fields, **{f".{n}": v for n, v in getattr(x, "__dict__", {}).items()}} if _is_own(x) else None


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_own(x: Any) -> bool:
    """True for an object whose attributes describe it, as those of Python classes do."""
    return hasattr(x, "__dict__") or any("__slots__" in vars(c) for c in type(x).__mro__)


def dense(x: Tensor) -> Tensor:
    """A sparse tensor as a dense one."""
    return x if x.is_meta or x.layout is torch.strided else x.to_dense()


def has_fractions(x: Any) -> bool:
    """True for values with rounding: tensors that carry a CoB, and Python's float."""
    return carries(x) or isinstance(x, (float, complex))


def require_alike(expected: Outputs, actual: Outputs, types: bool = False) -> None:
    """Raise InputError where two networks' outputs differ in structure or shape (or in `types` of tensors)."""
    if expected.keys() != actual.keys():
        path = next(p for p in (*expected, *actual) if (p in expected) != (p in actual))
        raise InputError(f"the outputs have different structures: only one of the two networks has {path}")
    for path, a in expected.items():
        b = actual[path]
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if a.shape != b.shape:
                raise InputError(
                    f"the two networks' outputs differ in shape: {path} is {tuple(a.shape)} and {tuple(b.shape)}"
                )
            if types and (a.dtype, a.layout) != (b.dtype, b.layout):
                raise InputError(
                    f"the outputs have different types: {path} is {a.dtype}, {a.layout} and {b.dtype}, {b.layout}"
                )
        elif _said(a) != _said(b):
            raise InputError(f"the outputs have different structures: {path} is {_said(a)} and {_said(b)}")


def _said(x: Any) -> str:
    return str(x) if isinstance(x, Container) else f"a {type(x).__qualname__}"


def paired(expected: Any, actual: Any) -> list[tuple[Tensor, Tensor]]:
    """The floating-point output tensors of two networks, in pairs.

    Raises:
        InputError: the outputs have different structures.
    """
    a, b = outputs(expected), outputs(actual)
    require_alike(a, b)
    return [(dense(x), dense(b[path])) for path, x in a.items() if carries(x)]
