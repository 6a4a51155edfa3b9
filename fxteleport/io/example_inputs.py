"""The example inputs of a plan in JSON: structures, shapes and plain values, without the values of tensors.

Integers and booleans that decided a branch of the plan (a padding mask) keep their values.

A file may describe anything, so sizes are checked before memory is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fxteleport.passes.errors import CheckpointError
from fxteleport.passes.graph.node_info import info
from fxteleport.plan.analysis import Analysis

_LARGEST_INPUT, _LARGEST_RANK = 2**28, 16


def described_inputs(plan: Analysis) -> list[dict[str, Any]]:
    """The example inputs of a plan, with the values only of tensors that decided a branch.

    Raises:
        CheckpointError: an input is neither a tensor, a list, a tuple, a dict nor a plain value; or the plan is of
            several calls, or of a cache that has a CoB.
    """
    if plan.calls or plan.cached != "pinned":
        raise CheckpointError(
            "a checkpoint describes one call, with caches as they are: save network.state_dict(), and emit the network"
            " from the same plan and cob.values again"
        )
    nodes = [n for n in plan.captured.graph.nodes if n.op == "placeholder"]
    data = plan.captured.data
    return [{"name": str(n.target), "value": _described(info(n).value, str(n.target), data)} for n in nodes]


def _described(value: Any, name: str, data: Mapping[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        description = {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        return description | {"values": data[id(value)].flatten().tolist()} if id(value) in data else description
    if type(value) in (list, tuple):
        return {type(value).__name__: [_described(v, name, data) for v in value]}
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {k: _described(v, name, data) for k, v in value.items()}}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"plain": value}
    raise CheckpointError(f"input '{name}' holds a {type(value).__name__}, which a checkpoint cannot describe")


def inputs_from(described: list[dict[str, Any]]) -> dict[str, Any]:
    """The inputs of a description, by name; tensors without values in it are zero.

    Raises:
        CheckpointError: the description is corrupt, or asks for more memory than an input takes.
    """
    try:
        inputs = {item["name"]: _input(item["value"]) for item in described}
        if not all(isinstance(name, str) for name in inputs):
            raise TypeError("an argument's name is no text")
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, StopIteration):
        raise CheckpointError("the checkpoint's description of the inputs is corrupt") from None
    return inputs


def _input(described: dict[str, Any]) -> Any:
    if "tensor" in described:
        require_size(described["tensor"])
        dtype = number_format(described["dtype"])
        if "values" in described:
            return torch.tensor(described["values"], dtype=dtype).reshape(described["tensor"])
        return torch.zeros(described["tensor"], dtype=dtype)
    kind, value = next(iter(described.items()))
    if kind == "plain":
        return value
    if kind == "dict":
        return {k: _input(v) for k, v in value.items()}
    return {"list": list, "tuple": tuple}[kind](_input(v) for v in value)


def require_size(size: Any) -> None:
    """Raise CheckpointError for an invalid size of an input, or one that needs too much memory."""
    if not isinstance(size, list) or not all(type(n) is int and n >= 0 for n in size):
        raise CheckpointError(f"the checkpoint describes an input of no possible size, {str(size)[:80]}")
    if len(size) > _LARGEST_RANK or math.prod(size) > _LARGEST_INPUT:
        raise CheckpointError(f"the checkpoint describes an input of size {str(size)[:80]}, which is out of all bounds")


def number_format(name: str) -> torch.dtype:
    """A dtype by its name in torch.

    Raises:
        CheckpointError: torch has none of this name.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"the checkpoint names an unknown number format '{name}'")
    return dtype
