"""Sizes of tensors, and checks of them."""

from __future__ import annotations

from typing import Any

import torch

from fxteleport.passes.graph.aten_twins.registry import twin


@twin("sym_size")
def sym_size(input: Any, *dim: Any) -> Any:
    return input.size(*dim)


@twin("sym_numel")
def sym_numel(input: Any) -> Any:
    return input.numel()


@twin("sym_stride")
def sym_stride(input: Any, *dim: Any) -> Any:
    return input.stride(*dim)


@twin("sym_is_contiguous")
def sym_is_contiguous(input: Any, memory_format: Any = torch.contiguous_format) -> Any:
    return input.is_contiguous(memory_format=memory_format)


@twin("sym_storage_offset")
def sym_storage_offset(input: Any) -> Any:
    return input.storage_offset()


@twin("_local_scalar_dense", "item")
def item(input: Any) -> Any:
    return input.item()


@twin(
    "_assert_scalar", "_functional_assert_scalar", "_assert_async", "_functional_assert_async", "sym_constrain_range",
    "_assert_tensor_metadata", "sym_constrain_range_for_size", "_functional_sym_constrain_range",
)  # fmt: skip
def check(*args: Any, **kwargs: Any) -> None:
    """A check of the program's own: which inputs are right is not what the network computes."""
