"""Guards: nodes of an emitted network that refuse inputs for which the captured graph does not hold."""

from __future__ import annotations

import collections
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxteleport.passes.errors import DataGuardError, GuardError
from fxteleport.passes.graph.fx_wrap import one_call
from fxteleport.passes.graph.node_info import NodeInfo, describe


def guard(graph: fx.Graph, check: Callable[..., None], *args: Any) -> fx.Node:
    """A node that makes a check. What it expects becomes plain values: a graph's code can spell no others."""
    node = graph.call_function(check, tuple(map(_plain, args)))
    describe(node, NodeInfo(has_effect=True))
    return node


def _plain(x: Any) -> Any:
    return x.tolist() if isinstance(x, (Tensor, np.generic)) else x


@one_call
def expect(value: Any, expected: Any, name: str) -> None:
    """Refuse another value of an argument whose plain Python value decided what was traced."""
    if isinstance(expected, bool) and isinstance(value, (bool, torch.SymBool, Tensor)):
        agrees = expected if value else not expected  # torch's tracers can only branch on a symbolic one
    else:
        if isinstance(expected, list) and isinstance(value, Tensor):  # a graph spells a tensor as a list
            value = value.tolist()
        both = isinstance(value, float) and isinstance(expected, float)
        agrees = value is expected or value == expected or (both and value != value and expected != expected)  # NaN
    if not agrees:
        raise GuardError(f"this network was captured with {name}={expected!r}, got {value!r}: capture it again")


@one_call
def expect_data(value: Any, expected: Any, name: str) -> None:
    """Refuse data that take another branch than the example's; an exported program asserts it when it runs."""
    if isinstance(value, Tensor) and torch.compiler.is_exporting():
        agrees = value.bool() == expected if isinstance(expected, bool) else value == expected
        torch.ops.aten._assert_async.msg(agrees, f"the data decide: exported on inputs with {name}={expected!r}")
        return
    if bool(value) is not expected if isinstance(expected, bool) else value != expected:
        raise DataGuardError(
            f"the data decide: this network was captured on inputs with {name}={expected!r}, got {value!r}: capture it"
            " on inputs like these"
        )


@one_call
def expect_length(value: Any, length: int, name: str = "a list") -> None:
    """Refuse a list or a tuple of another length than the captured one."""
    if len(value) != length:
        raise GuardError(f"this network was captured with {length} items in {name}, got {len(value)}: capture it again")


@one_call
def expect_keys(value: dict[Any, Any], keys: list[Any], name: str) -> None:
    """Refuse a dictionary with other keys than the captured one."""
    expect(list(value), keys, f"the keys of {name}")


@one_call
def expect_type(dtype: torch.dtype, other: torch.dtype, same: bool, name: str) -> None:
    """Refuse a type of tensors that is another one, or that is not, where forward has asked and the answer decided."""
    if (dtype == other) is not same:
        raise GuardError(
            f"this network was captured with {name} being {other if same else f'another type than {other}'}, got"
            f" {dtype}: capture it again"
        )


@one_call
def expect_tensor(value: Tensor, rank: int | None, dtype: torch.dtype | None, name: str) -> None:
    """Refuse a tensor with another number of axes, or of another type, than the captured one.

    Floating-point types count as equal, so that the network can be cast. None: the trace did not depend on it.
    """
    _require(isinstance(value, Tensor), "a tensor", value, name)
    if rank is not None and value.ndim != rank:
        raise GuardError(f"this network was captured with {rank} axes of {name}, got {value.ndim}: capture it again")
    if dtype is not None and value.dtype != dtype and not (dtype.is_floating_point and value.is_floating_point()):
        raise GuardError(f"this network was captured with {dtype} for {name}, got {value.dtype}: capture it again")


@one_call
def expect_ones(value: Tensor, rank: int, ones: dict[int, bool], name: str) -> None:
    """Refuse a tensor that differs from the captured one in which of these axes have size 1."""
    _require(isinstance(value, Tensor), "a tensor", value, name)
    if value.ndim != rank or any((value.shape[axis] == 1) is not one for axis, one in ones.items()):
        axes = [axis for axis, one in ones.items() if one]
        raise GuardError(
            f"this network was captured with size 1 along the axes {axes} of what {name} takes, got the shape"
            f" {tuple(value.shape)}: capture it again"
        )


@one_call
def expect_form(value: Any, form: Any, name: str) -> None:
    """Refuse an input of another structure than the captured one.

    It tests classes, not kinds of containers (`containers.kind_of`), so that `torch.compile` can trace it.

    Args:
        form: `...` for a tensor; a list for a list, a tuple or a deque; a tuple of pairs for a dictionary, or for the
            fields of a data class; the value itself for a plain one; a dictionary for a container that also has fields.
    """
    if isinstance(form, dict):
        expect_form(value, form["held"], name)
        for key, inner in form["fields"]:
            expect_form(getattr(value, key, None), inner, f"{name}.{key}")
    elif form is ...:
        _require(isinstance(value, Tensor), "a tensor", value, name)
    elif isinstance(form, tuple):
        keys = [key for key, _ in form]
        is_table = isinstance(value, (dict, types.MappingProxyType))
        if is_table:
            expect(set(value), set(keys), f"the keys of {name}")
        else:
            _require(all(isinstance(key, str) and hasattr(value, key) for key in keys), f"{keys}", value, name)
        for key, inner in form:
            expect_form(value[key] if is_table else getattr(value, key), inner, f"{name}[{key!r}]")
    elif isinstance(form, list):
        _require(isinstance(value, (list, tuple, collections.deque)), "a list or a tuple", value, name)
        expect_length(value, len(form), name)
        for i, (item, inner) in enumerate(zip(value, form, strict=True)):
            expect_form(item, inner, f"{name}[{i}]")
    else:
        expect(value, form, name)


@one_call
def expect_apart(values: list[Any], apart: bool) -> None:
    """Refuse one object for several inputs that forward changes where the captured ones were apart, or the reverse."""
    if (len(set(map(id, values))) == len(values)) is not apart:
        was, now = ("several objects", "one") if apart else ("one object", "several")
        raise GuardError(
            f"forward changes its inputs, and was captured with {was} where it gets {now}: capture it again"
        )


def _require(holds: bool, kind: str, value: Any, name: str) -> None:
    if not holds:
        raise GuardError(f"this network was captured with {kind} for {name}, got {value!r}: capture it again")


@one_call
def expect_error(args: tuple[Any, ...], kwargs: dict[str, Any], is_method: bool, name: str) -> None:
    """Refuse inputs on which a call succeeds that failed in the capture, where the model's code caught the error.

    Args:
        name: of the method of the first argument, or of the function with its module.
    """
    home, _, own = name.rpartition(".")
    try:
        getattr(args[0], name)(*args[1:], **kwargs) if is_method else getattr(sys.modules[home], own)(*args, **kwargs)
    except Exception:
        return
    raise GuardError(f"this network was captured on inputs on which '{name}' fails: capture it again")


@one_call
def expect_gradient(parameter: Tensor, trained: bool, name: str) -> None:
    """Refuse a parameter that was frozen or unfrozen since the network was captured."""
    if parameter.requires_grad is not trained:
        what = "requiring a gradient" if trained else "requiring no gradient"
        raise GuardError(f"this network was captured with '{name}' {what}: set it back, or capture the model again")


@one_call
def insist(condition: Any, value: bool, where: str) -> None:
    """An assertion of the model's own code."""
    if bool(condition) is not value:
        raise GuardError(f"the model's own check fails, at {where}")


GUARDS = frozenset(
    {
        expect,
        expect_data,
        expect_error,
        expect_length,
        expect_keys,
        expect_type,
        expect_tensor,
        expect_ones,
        expect_form,
        expect_apart,
        expect_gradient,
        insist,
    }
)
