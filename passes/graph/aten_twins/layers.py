"""Operators with weights, norms, and products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from fxteleport.passes.graph.aten_twins.registry import Beside, twin

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@twin("convolution", "_convolution", "convolution_overrideable")
def convolution(
    input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any,
    groups: int, *flags: Any,
) -> Any:  # fmt: skip
    axes = max(map(len, (stride, padding, dilation))) - 1
    if transposed:
        return _TRANSPOSED[axes](input, weight, bias, stride, padding, output_padding, groups, dilation)
    return _CONVOLUTIONS[axes](input, weight, bias, stride, padding, dilation, groups)


@twin("embedding")
def embedding(
    weight: Any, indices: Any, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Any:
    padding = None if padding_idx < 0 else padding_idx
    return F.embedding(indices, weight, padding, None, 2.0, scale_grad_by_freq, sparse)


@twin("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(
    weight: Any, indices: Any, offsets: Any, scale_grad_by_freq: bool = False, mode: int = 0, sparse: bool = False,
    per_sample_weights: Any = None, include_last_offset: bool = False, padding_idx: int | None = -1,
) -> Beside:  # fmt: skip
    padding = None if padding_idx is None or padding_idx < 0 else padding_idx
    return Beside(
        F.embedding_bag(
            indices, weight, offsets, None, 2.0, scale_grad_by_freq, ("sum", "mean", "max")[mode], sparse,
            per_sample_weights, include_last_offset, padding,
        )
    )  # fmt: skip


@twin("batch_norm")
def batch_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float,
    eps: float, cudnn_enabled: bool = True,
) -> Any:  # fmt: skip
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


@twin("layer_norm")
def layer_norm(
    input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:  # fmt: skip
    return F.layer_norm(input, normalized_shape, weight, bias, eps)


@twin("group_norm")
def group_norm(
    input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enabled: bool = True
) -> Any:
    return F.group_norm(input, num_groups, weight, bias, eps)


@twin("instance_norm")
def instance_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, use_input_stats: bool, momentum: float,
    eps: float, cudnn_enabled: bool = True,
) -> Any:  # fmt: skip
    return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


@twin("einsum")
def einsum(equation: str, tensors: Sequence[Any], *, path: Any = None) -> Any:
    return torch.einsum(equation, *tensors)
