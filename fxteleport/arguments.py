"""Checks of arguments and results of the public functions: networks, weights, losses.

Each raises a TeleportError that says what was passed and what to pass instead; a right argument costs one `isinstance`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.errors import InputError, ModelError


def require_module(value: object, what: str = "the model") -> None:
    """Raise ModelError for anything but an instance of `nn.Module`."""
    if isinstance(value, nn.Module):
        return
    if isinstance(value, type) and issubclass(value, nn.Module):
        raise ModelError(f"{what} is the class {value.__name__}: pass an instance, {value.__name__}(...)")
    raise ModelError(f"{what} is {kind(value)}, not an nn.Module: pass a model instance")


def require_weights(value: object, like: Mapping[str, Tensor] | None = None, what: str = "the weights") -> None:
    """Raise InputError for anything but tensors by name; with `like`, for a missing name or another shape."""
    if isinstance(value, nn.Module):
        raise InputError(f"{what} are a network: pass its weights by name, dict(network.named_parameters())")
    if not isinstance(value, Mapping):
        raise InputError(f"{what} are {kind(value)}: pass tensors by name, as of dict(network.named_parameters())")
    other = next((n for n, t in value.items() if not isinstance(t, Tensor)), None)
    if other is not None:
        raise InputError(f"{what} hold {kind(value[other])} under '{other}', not a tensor")
    for name, tensor in (like or {}).items():
        if name not in value:
            raise InputError(f"{what} have no '{name}': pass all that they are compared with")
        if value[name].shape != tensor.shape:
            shapes = f"{tuple(value[name].shape)}, not {tuple(tensor.shape)}"
            raise InputError(f"'{name}' of {what} has shape {shapes}")


def require_callable(value: object, what: str, example: str) -> None:
    """Raise InputError for a value that is not callable; `example` says what to pass."""
    if not callable(value):
        raise InputError(f"{what} is {kind(value)}, which cannot be called: pass {example}")


def require_scalar(value: Any, what: str, hint: str = "") -> Tensor:
    """Return a result to minimise, which must be one number with a gradient; else raise InputError."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else kind(value)
        raise InputError(f"{what} returned {shape}, not a scalar tensor{hint}")
    if not value.requires_grad and torch.is_grad_enabled():
        raise InputError(f"{what} returned a tensor without a gradient: let it depend on the network's weights")
    return value


def require_number(value: Any, what: str) -> Any:
    """Return a result that must be one number, as a tensor or not; else raise InputError."""
    one = isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)
    if not one:
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else kind(value)
        raise InputError(f"{what} returned {shape}, not one number")
    return value


def called(function: Callable[..., Any], *arguments: Any, what: str) -> Any:
    """Call a function; raise InputError if its signature does not take these arguments.

    Errors that the function itself raises are not changed.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none
        return function(*arguments)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise InputError(f"{what} '{name}' takes {signature}: {error}; call it with what it needs first") from None
    return function(*arguments)


def kind(value: object) -> str:
    """The class of a value, for a message: "a list", "an ndarray", "the class Linear", "None"."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
