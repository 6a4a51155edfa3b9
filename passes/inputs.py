"""The placeholders of a capture: one for each argument given, whatever its structure.

Tensors inside lists, tuples and dicts are read out of their structure, so that `forward` gets plain containers.
An argument without tensors is specialised, and the emitted network refuses another value of it.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxteleport.errors import CaptureError
from fxteleport.passes import evaluate, proxy
from fxteleport.passes.objects import is_spelt

if TYPE_CHECKING:
    from fxteleport.passes.tracer import Tracer

_SAID = 4


def placeholders(
    tracer: Tracer, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make a placeholder for each argument given; tensors inside structures are read out of theirs."""
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise CaptureError(f"the example inputs do not fit the model's forward: {error}") from error
    names = _argument_names(bound)
    new_args = tuple(placeholder(tracer, name, value) for name, value in zip(names, args, strict=False))
    new_kwargs = {name: placeholder(tracer, name, value) for name, value in kwargs.items()}
    return new_args, new_kwargs


def said(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The inputs' shapes and number formats, for a message: `(2, 5) float32`."""
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    words = [f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for x in tensors[:_SAID]]
    return ", ".join(words + ["..."] * (len(tensors) > _SAID)) or "no tensor"


def placeholder(tracer: Tracer, name: str, value: Any) -> Any:
    """The placeholder of one argument, as `forward` sees it."""
    meta = evaluate.tree_map(evaluate.stand_in, value)
    node = tracer.graph.placeholder(name)
    node.meta.update(val=meta, path="")
    handle = proxy.make(node, tracer, meta)
    if isinstance(value, Tensor):
        return handle
    leaves = pytree.tree_leaves(value)
    if not any(isinstance(x, Tensor) for x in leaves):
        if not is_spelt(value):
            raise CaptureError(
                f"the input '{name}' is a {type(value).__name__}, which no graph can hold: wrap the model in a module"
                " whose forward takes tensors and plain values"
            )
        # The value decided what was traced: the emitted network accepts this one only.
        tracer.specialized.append(f"input '{name}': {value!r}")
        guard(tracer.graph, expect, node, value, name)
        return value
    return _opened(handle)


def guard(graph: fx.Graph, check: Callable[..., None], *args: Any) -> fx.Node:
    """A node that refuses, when the network runs, what was not captured."""
    node = graph.call_function(check, args)
    node.meta.update(val=None, path="", keep=True)
    return node


def expect(value: Any, expected: Any, name: str) -> None:
    """Refuse another value of an argument that decided, as a plain Python value, what was traced."""
    if value is not expected and value != expected:
        raise ValueError(f"this network was captured with {name}={expected!r}, got {value!r}: capture it again")


def expect_length(value: Any, length: int) -> None:
    """Refuse a list or a tuple of another length than the one that was captured."""
    if len(value) != length:
        raise ValueError(f"this network was captured with {length} items here, got {len(value)}: capture it again")


def insist(condition: Any, value: bool, where: str) -> None:
    """A check of the model's own."""
    if bool(condition) is not value:
        raise ValueError(f"the model's own check fails, at {where}")


GUARDS = frozenset({expect, expect_length, insist})


def _opened(handle: Any) -> Any:
    """A structured placeholder as a plain structure whose tensors are read out of it."""
    value = handle._value
    if isinstance(value, Tensor):
        return handle
    if isinstance(value, dict):
        return {k: _item(handle, k, v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        guard(handle._tracer.graph, expect_length, handle._node, len(value))
        items = [_item(handle, i, v) for i, v in enumerate(value)]
        kind: Any = type(value)
        return kind._make(items) if proxy.is_named_tuple(kind) else kind(items)
    return handle


def _item(handle: Any, key: Any, value: Any) -> Any:
    if not any(isinstance(x, Tensor) for x in pytree.tree_leaves(value)):
        return value
    return _opened(handle._tracer.record("call_function", operator.getitem, (handle, key), {}))


def _argument_names(bound: inspect.BoundArguments) -> list[str]:
    """A name for each positional argument."""
    names: list[str] = []
    for name, parameter in bound.signature.parameters.items():
        if name not in bound.arguments:
            continue
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{name}_{i}" for i in range(len(bound.arguments[name]))]
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            names.append(name)
    return names
