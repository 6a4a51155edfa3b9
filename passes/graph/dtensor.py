"""Sharded models (DTensor: FSDP2, tensor parallelism): what of a tensor is on this device, found without communication.

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
    """True for a DTensor. Nothing is imported: where torch's module of them was not, there are none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def addresses(tensors: Iterable[Tensor]) -> list[int]:
    """Where the data are; of a DTensor those of this device."""
    return [t.to_local().data_ptr() if is_sharded(t) else t.data_ptr() for t in tensors]  # type: ignore[attr-defined]


def unsharded(kind: type) -> type:
    """The class of a module before FSDP gave it one of its own."""
    module: Any = sys.modules.get("torch.distributed.fsdp")
    if module is None or not issubclass(kind, module.FSDPModule):
        return kind
    return next(base for base in kind.__mro__[1:] if not issubclass(base, module.FSDPModule))


def put_back(model: nn.Module) -> None:
    """Let FSDP's modules hold their shards again: after a forward they may hold gathered copies, which it throws away.

    Frees memory; no communication.
    """
    module: Any = sys.modules.get("torch.distributed.fsdp")
    if module is None:
        return
    for part in model.modules():
        if isinstance(part, module.FSDPModule):
            part.reshard()


def local(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
    """The tensors of this device, and which positions of each axis they have; none are named where it has all.

    Raises:
        ModelError: a DTensor holds partial sums, or its mesh leaves this process out.
    """
    found: dict[str, Tensor] = {}
    positions: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        if is_sharded(tensor):
            positions[name] = _positions(name, tensor)
            found[name] = tensor.detach().to_local()  # type: ignore[attr-defined]
        else:
            positions[name], found[name] = [], tensor
    return found, positions


def _positions(name: str, tensor: Any) -> list[Tensor]:
    """Which positions of each axis the local shard of a DTensor has: its placements' own split, of the numbers."""
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
