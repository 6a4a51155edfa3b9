"""The placeholders of a capture: one for each argument given, whatever its structure.

Tensors inside lists, tuples, dicts and data classes are read out of their structure by nodes, and `forward` gets the
like of what it was given. All else in it decides what is traced: the emitted network refuses another length, other keys
and other plain values.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import inspect
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxteleport.passes.capture import meta_eval, proxy
from fxteleport.passes.errors import CaptureError
from fxteleport.passes.graph.guards import expect_form, guard
from fxteleport.passes.graph.node_info import NodeInfo, describe
from fxteleport.passes.graph.structure import is_record, is_spelt, remade

if TYPE_CHECKING:
    from fxteleport.passes.capture.tracer import Tracer

_SAID = 4
_LONGEST = 200
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def placeholders(
    tracer: Tracer, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make a placeholder for each argument given; tensors inside structures are read out of theirs."""
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise CaptureError(f"the example inputs do not fit the model's forward: {error}") from error
    names = _argument_names(bound)
    missing = [n for n, p in bound.signature.parameters.items() if n not in bound.arguments and p.kind not in _VARIABLE]
    if missing:
        tracer.rest_on("form", f"forward is not given {', '.join(missing)}", path="")
    new_args = tuple(placeholder(tracer, name, value) for name, value in zip(names, args, strict=False))
    new_kwargs = {name: placeholder(tracer, name, value) for name, value in kwargs.items()}
    return new_args, new_kwargs


def said(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The inputs' shapes and number formats, for a message: `(2, 5) float32`."""
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    words = [f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for x in tensors[:_SAID]]
    return ", ".join(words + ["..."] * (len(tensors) > _SAID)) or "no tensor"


def placeholder(tracer: Tracer, name: str, value: Any) -> Any:
    """The placeholder of one argument, as `forward` sees it.

    Raises:
        CaptureError: no graph can hold it.
    """
    meta = meta_eval.tree_map(meta_eval.stand_in, value)
    node = tracer.graph.placeholder(name)
    describe(node, NodeInfo(meta))
    if isinstance(value, Tensor):
        return tracer.handle(node, meta)
    form = _form(value, name)
    tensors = any(x is ... for x in pytree.tree_leaves(form))
    what = f"a {type(value).__name__} of this structure" if tensors else repr(value)
    tracer.rest_on("form", f"input '{name}' is {what}"[:_LONGEST], node, path="")
    guard(tracer.graph, expect_form, node, form, name)
    return _opened(tracer.handle(node, meta))


def _form(value: Any, name: str) -> Any:
    """What an input is like, as `guards.expect_form` takes it."""
    if isinstance(value, Tensor):
        return ...
    if isinstance(value, dict):
        return tuple((k, _form(v, f"{name}[{k!r}]")) for k, v in value.items())
    if isinstance(value, (list, tuple, collections.deque)):
        return [_form(v, f"{name}[{i}]") for i, v in enumerate(value)]
    if is_record(value):
        return tuple((f.name, _form(getattr(value, f.name), f"{name}.{f.name}")) for f in dataclasses.fields(value))
    if isinstance(value, np.generic):
        return value.item()
    if is_spelt(value):
        return value
    raise CaptureError(
        f"the input '{name}' is a {type(value).__name__}, which no graph can hold: wrap the model in a module"
        " whose forward takes tensors and plain values"
    )


def _opened(handle: Any) -> Any:
    """The like of a placeholder's value, with tensors that are read out of it."""
    value = handle._value
    if isinstance(value, Tensor):
        return handle
    if isinstance(value, dict):
        made = copy.copy(value)
        for key, x in value.items():
            made[key] = _item(handle, operator.getitem, key, x)
        return made
    if is_record(value):
        names = [f.name for f in dataclasses.fields(value)]
        return remade(value, {name: _item(handle, getattr, name, getattr(value, name)) for name in names})
    if isinstance(value, (list, tuple)):
        items = [_item(handle, operator.getitem, i, x) for i, x in enumerate(value)]
        kind: Any = type(value)
        return kind._make(items) if proxy.is_named_tuple(kind) else kind(items)
    return handle if any(isinstance(x, Tensor) for x in pytree.tree_leaves(value)) else value


def _item(handle: Any, read: Any, key: Any, value: Any) -> Any:
    if not any(isinstance(x, Tensor) or is_record(x) for x in pytree.tree_leaves(value)):
        return value
    return _opened(handle._tracer.record("call_function", read, (handle, key), {}))


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
