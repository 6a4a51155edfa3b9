"""A state dict as safetensors and JSON hold it: tensors in memory of their own, and extra state of text and numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fxteleport.passes.errors import CheckpointError


def parted(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a state dict, and the extra state of modules as JSON has it.

    Raises:
        CheckpointError: extra state holds more than text and numbers.
    """
    tensors: dict[str, Tensor] = {}
    extra: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            tensors[name] = value
            continue
        try:
            extra[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            raise CheckpointError(
                f"'{name}' of the state dict is a {type(value).__name__}: only tensors, text and numbers can be saved"
            ) from None
    return tensors, extra


def extra_state(own: Mapping[str, Any], saved: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The extra state in the state dict `own` of a network that was built again.

    Raises:
        CheckpointError: it is not what was saved.
    """
    extra = parted(own)[1]
    wrong = next((name for name, value in saved.items() if extra.get(name) != value), None)
    if wrong is not None:
        raise CheckpointError(f"'{wrong}' is not what it was when '{model}' was saved: pass that model")
    return {name: own[name] for name in extra}


def unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor in memory of its own, as safetensors needs it: tied weights appear under each name.

    Raises:
        CheckpointError: a tensor is sparse.
    """
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if tensor.layout is not torch.strided:
            raise CheckpointError(f"'{name}' of the state dict is sparse: safetensors keeps dense tensors only")
        memory = tensor.untyped_storage().data_ptr()
        own = memory not in seen and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        seen.add(memory)
        tensors[name] = tensor if own else tensor.detach().clone(memory_format=torch.contiguous_format)
    return tensors
