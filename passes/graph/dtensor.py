"""Sharded models (DTensor: FSDP2, tensor parallelism): which part of a tensor this device has, without communication.

A weight's factor at one position is known from the position alone. So each device scales its own shard with its part
of the factors, and nothing is gathered.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.errors import ModelError


def is_sharded(tensor: Tensor) -> bool:
    """True for a DTensor. Imports nothing: unless torch's module of them was imported, there are none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def addresses(tensors: Iterable[Tensor]) -> list[int]:
    """The addresses of the data; of a DTensor, those of this device's part."""
    return [t.to_local().data_ptr() if is_sharded(t) else t.data_ptr() for t in tensors]  # type: ignore[attr-defined]


def unsharded(kind: type) -> type:
    """The class of a module before FSDP gave it one of its own."""
    module: Any = sys.modules.get("torch.distributed.fsdp")
    if module is None or not issubclass(kind, module.FSDPModule):
        return kind
    return next(base for base in kind.__mro__[1:] if not issubclass(base, module.FSDPModule))


def put_back(model: nn.Module) -> None:
    """Have FSDP's modules hold their shards again and free the gathered copies that a forward may have left.

    No communication.
    """
    module: Any = sys.modules.get("torch.distributed.fsdp")
    if module is None:
        return
    for part in model.modules():
        if isinstance(part, module.FSDPModule):
            part.reshard()


def local(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
    """The tensors of this device, and which positions of each axis they have: an empty list where they have all.

    Raises:
        ModelError: a DTensor holds partial sums, or its mesh leaves this process out.
    """
    parts: dict[str, Tensor] = {}
    positions: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        if is_sharded(tensor):
            positions[name] = _positions(name, tensor)
            parts[name] = tensor.detach().to_local()  # type: ignore[attr-defined]
        else:
            positions[name], parts[name] = [], tensor
    return parts, positions


def _positions(name: str, tensor: Any) -> list[Tensor]:
    """Which positions of each axis the local shard of a DTensor has: its placements split the position numbers."""
    mesh, at = tensor.device_mesh, tensor.device_mesh.get_coordinate()
    if at is None:
        raise ModelError(f"parameter '{name}' is sharded over processes that this is none of: apply_ there only")
    axes = [torch.arange(n) for n in tensor.shape]
    for dimension, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            continue
        axis = getattr(placement, "dim", None)
        if axis is None or placement.is_partial():
            raise ModelError(
                f"parameter '{name}' is a DTensor placed as {placement}: a sum whose parts are on several devices;"
                " redistribute it to Shard or Replicate first"
            )
        lying = axes[axis].view([-1 if d == axis else 1 for d in range(tensor.ndim)])
        parts, _ = placement._split_tensor(lying, mesh.size(dimension), with_padding=False, contiguous=True)
        axes[axis] = parts[at[dimension]].flatten()
    if tuple(map(len, axes)) != tuple(tensor.to_local().shape):
        raise ModelError(
            f"parameter '{name}' is a DTensor placed as {tensor.placements}, but its shard has another shape,"
            f" {tuple(tensor.to_local().shape)}: redistribute it to Shard or Replicate first"
        )
    return axes
