"""ATen overloads: for each one the function of torch's own that calls it, so that one rule serves both.

`torch.ops.aten.relu.default` is what `torch.relu` calls: the graphs of `torch.export` and `make_fx` consist of such
overloads. Most of torch's functions and methods bear the name of their operator and take its arguments in its order
(both are generated from one schema), so their twin is derived from the name. Where torch's function has another name,
or other arguments, the twin is written out in `aten_twins/`, in terms of torch's functions.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

_TORCH_NAMES = {"self": "input"}  # arguments that torch's functions name otherwise
_NAMESPACES = ("aten", "prims")
# How the functions of torch's submodules are called in ATen.
_PREFIXES = (("linalg_", torch.linalg), ("fft_", torch.fft), ("special_", torch.special))


@dataclass(frozen=True, slots=True)
class Twin:
    """What an overload is in torch's own words.

    Attributes:
        op: how a node calls it: "call_function", "call_method", or "compose" for a function that calls several.
        target: the function, or the name of the method.
    """

    op: str
    target: Any


def is_aten(fn: Any) -> bool:
    """True for an operator of ATen's, an overload of it or all of them (`torch.ops.aten.relu`)."""
    return isinstance(fn, (OpOverload, OpOverloadPacket)) and schema_name(fn).startswith(_NAMESPACES)


def schema_name(fn: OpOverload | OpOverloadPacket) -> str:
    """The name of an operator with its namespace: `aten::relu`."""
    return fn._qualified_op_name if isinstance(fn, OpOverloadPacket) else fn._schema.name


@functools.cache
def twin_of(fn: OpOverload | OpOverloadPacket) -> Twin | None:
    """The twin of an overload; None where torch has no function for it."""
    from fxteleport.passes.graph.aten_twins import TWINS

    namespace, name = schema_name(fn).split("::")
    key = name if namespace == "aten" else f"{namespace}.{name}"
    if key in TWINS:
        return Twin("compose", TWINS[key])
    return _derived(name, _arguments(fn)) if namespace == "aten" else None


def _arguments(fn: OpOverload | OpOverloadPacket) -> tuple[str, ...]:
    """The names of the positional arguments in a schema."""
    overload = fn if isinstance(fn, OpOverload) else getattr(fn, fn.overloads()[0])
    return tuple(a.name for a in overload._schema.arguments if not a.kwarg_only)


def _derived(name: str, arguments: tuple[str, ...]) -> Twin | None:
    """The function or method of an operator's own name."""
    for prefix, space in _PREFIXES:
        if name.startswith(prefix) and callable(fn := getattr(space, name.removeprefix(prefix), None)):
            return Twin("call_function", fn)
    if "reduction" in arguments and callable(fn := getattr(F, name, getattr(F, name.removesuffix("_loss"), None))):
        return Twin("compose", functools.partial(_loss, fn, arguments))
    if callable(fn := getattr(torch, name, None)) and not isinstance(fn, type):
        return Twin("compose", functools.partial(_each, fn)) if _takes_each(fn) else Twin("call_function", fn)
    if callable(getattr(Tensor, name, None)):
        return Twin("call_method", name)
    if hasattr(Tensor, name):
        return Twin("compose", operator.attrgetter(name))
    if callable(fn := getattr(F, name, None)) and _takes(fn, arguments):
        return Twin("call_function", fn)
    if name.endswith("_") and callable(fn := getattr(F, name[:-1], None)) and _takes(fn, (*arguments, "inplace")):
        return Twin("compose", functools.partial(fn, inplace=True))
    if callable(fn := getattr(torch._C._nn, name, None)):
        return Twin("call_function", fn)
    return None


def _takes_each(fn: Callable[..., Any]) -> bool:
    """True for a function of Python's that takes tensors one by one, where the operator takes a list of them."""
    return not inspect.isbuiltin(fn) and next(iter(inspect.signature(fn).parameters.values())).kind is _EACH


def _each(fn: Callable[..., Any], tensors: Any, **settings: Any) -> Any:
    return fn(*tensors, **settings) if isinstance(tensors, (list, tuple)) else fn(tensors, **settings)


_EACH = inspect.Parameter.VAR_POSITIONAL


def _loss(fn: Callable[..., Any], arguments: tuple[str, ...], *args: Any, **kwargs: Any) -> Any:
    """A loss: torch's functions take the reduction by its name."""
    given = dict(zip(arguments, args, strict=False)) | kwargs
    reduction = ("none", "mean", "sum")[given.pop("reduction", 1)]
    return fn(**{_TORCH_NAMES.get(name, name): value for name, value in given.items()}, reduction=reduction)


def _takes(fn: Callable[..., Any], arguments: tuple[str, ...]) -> bool:
    """True for a function that takes these arguments in this order: one of torch's C code, or one whose names agree."""
    if inspect.isbuiltin(fn):
        return True
    names = list(inspect.signature(fn).parameters)
    return names[: len(arguments)] == [_TORCH_NAMES.get(name, name) for name in arguments]


def positional(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a derived twin: ATen's `self` is torch's `input`, and comes first."""
    rest = dict(kwargs)
    return ((rest.pop("self"), *args) if "self" in rest else args), rest


@functools.lru_cache(maxsize=4096)
def draws(target: Any) -> bool:
    """True for a function or a method of torch's that draws random numbers."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    packet = getattr(torch.ops.aten, name, None) if name.isidentifier() else None
    overloads = [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    return any(torch.Tag.nondeterministic_seeded in overload.tags for overload in overloads)
