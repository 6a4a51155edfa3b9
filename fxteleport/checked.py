"""A decorator for public functions that checks arguments against their annotations before the function runs.

An argument of another class raises a TeleportError, in one line that says what was passed and what to pass. Contents
are not checked. An annotation that is not in the table, or known to type checkers only, is not checked.
"""

from __future__ import annotations

import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxteleport.arguments import kind, require_module, require_weights
from fxteleport.passes.errors import CobError, InputError

P = ParamSpec("P")
R = TypeVar("R")
Fits = Callable[[Any], bool]
_SEVERAL = (str, bytes, Mapping, nn.Module)  # iterables that do not count as a list


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function refuse arguments that do not fit its annotations.

    Raises:
        InputError, ModelError, CobError: when it is called with such an argument.
    """
    inner = inspect.unwrap(function)
    signature = inspect.signature(inner)
    named = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    bare = {p.name: p.annotation for p in named if p.annotation is not p.empty}

    @functools.cache
    def meant() -> dict[str, Any]:  # evaluated at the first call, when the annotations' names are imported
        return {name: _evaluated(annotation, inner.__globals__) for name, annotation in bare.items()}

    @functools.wraps(function)
    def checking(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # Python names the missing or superfluous argument
        for name, annotation in meant().items():
            if name in given:
                _require(name, given[name], annotation)
        return function(*args, **kwargs)

    return checking


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    try:
        return eval(annotation, names) if isinstance(annotation, str) else annotation
    except NameError:  # imported for type checkers only
        return Any


def _require(name: str, value: Any, annotation: Any) -> None:
    """Raise a TeleportError for a value that does not fit its annotation."""
    arms = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if value is None and type(None) in arms:
        return
    entries = [_KINDS.get(_key(arm)) or _of_class(arm) for arm in arms if arm is not type(None)]
    if any(entry is None or entry[0](value) for entry in entries):
        return
    if arms == (nn.Module,):
        require_module(value, "the model" if name == "model" else f"'{name}'")
    if _key(arms[0]) == "weights":
        require_weights(value, what=f"'{name}'")
    words = " or ".join(entry[1] for entry in entries if entry is not None)
    none = ", or None" if type(None) in arms else ""
    error = CobError if any(getattr(arm, "__name__", "") == "ChangeOfBasis" for arm in arms) else InputError
    raise error(f"'{name}' is {kind(value)}: pass {words}{none}")


def _key(annotation: Any) -> Any:
    """The table's key for an annotation: a class, or a word for a generic one."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Mapping, dict) and args == (str, Tensor):
        return "weights"
    if origin is Callable:
        return "function"
    if origin is Iterable and args == (Any,):
        return "batches"
    if origin in (Sequence, Collection, list, tuple):
        return ("several", args[0]) if args and args[0] in (int, float) else "several"
    return annotation


def _of_class(annotation: Any) -> tuple[Fits, str] | None:
    """The check for a class that the table does not list."""
    if not isinstance(annotation, type) or annotation in (object, Any):
        return None
    example = _EXAMPLES.get(annotation.__name__, f"a {annotation.__name__}")
    return lambda value: isinstance(value, annotation), example


_EXAMPLES = {
    "Analysis": "a plan, fxteleport.plan(model, *example_inputs)",
    "ChangeOfBasis": "a change of basis: draw one with plan.sample(), or make one of values of your own with plan.cob",
    "GraphModule": "a network from plan.rewrite or fold_norms",
    "Point": "a point, plan.at(cob)",
    "Teleportable": "a network that teleports, fxteleport.Teleportable(model, *example_inputs)",
    "Teleport": "a schedule, fxteleport.Teleport(network, optimizer, every=...)",
}


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex())


def _several(value: Any) -> bool:
    return isinstance(value, Collection) and not isinstance(value, _SEVERAL)


def _numbers(value: Any) -> bool:
    return _several(value) and all(map(_is_number, value))


def _batches(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (*_SEVERAL, Tensor, np.ndarray))


_KINDS: dict[Any, tuple[Fits, str]] = {
    bool: (lambda v: isinstance(v, (bool, int, np.bool_)), "True or False"),
    int: (lambda v: isinstance(v, Integral), "a whole number"),
    float: (_is_number, "a number"),
    str: (lambda v: isinstance(v, str), "a text"),
    Path: (lambda v: isinstance(v, os.PathLike), "a path"),
    torch.dtype: (lambda v: isinstance(v, torch.dtype), "a number format such as torch.float16"),
    Tensor: (lambda v: isinstance(v, Tensor), "a tensor"),
    nn.Module: (lambda v: isinstance(v, nn.Module), "a model instance"),
    Optimizer: (lambda v: isinstance(v, Optimizer), "an optimiser of torch.optim"),
    "weights": (lambda v: isinstance(v, Mapping) and all(isinstance(t, Tensor) for t in v.values()), "tensors by name"),
    "function": (lambda v: callable(v) and not isinstance(v, type), "a function"),
    "batches": (_batches, "a list or another iterable of batches, each as the model's forward takes it"),
    "several": (_several, "a list"),
    ("several", int): (_numbers, "a list of whole numbers"),
    ("several", float): (_numbers, "a list of numbers"),
}
