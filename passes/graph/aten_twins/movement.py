"""Views, indexing, padding and windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from fxteleport.passes.graph.aten_twins.registry import twin

_END = 2**63 - 1  # of a slice without an end


@twin("_unsafe_view", "_reshape_alias")
def unsafe_view(input: Any, size: Any, *stride: Any) -> Any:
    return input.reshape(size)


@twin("slice")
def slice_(input: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    return input[
        _along(dim, slice(start if type(start) is not int or start else None, None if _is_end(end) else end, step))
    ]


@twin("slice_scatter")
def slice_scatter(input: Any, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    return torch.slice_scatter(input, src, dim, start, None if _is_end(end) else end, step)


def _is_end(end: Any) -> bool:
    return type(end) is int and end >= _END


def _along(dim: int, item: Any) -> tuple[Any, ...]:
    """What indexes one axis, counted from the first or the last, whatever the rank."""
    full = slice(None)
    return (*[full] * dim, item) if dim >= 0 else (..., item, *[full] * (-dim - 1))


@twin("index", "_unsafe_index")
def index(input: Any, indices: Sequence[Any]) -> Any:
    return input[_items(indices)]


@twin("index_put", "_unsafe_index_put")
def index_put(input: Any, indices: Sequence[Any], values: Any, accumulate: bool = False, *unsafe: Any) -> Any:
    if accumulate:
        return torch.index_put(input, tuple(indices), values, accumulate)
    copied = input.clone()
    copied[_items(indices)] = values
    return copied


@twin("index_put_", "_index_put_impl_")
def index_put_(input: Any, indices: Sequence[Any], values: Any, accumulate: bool = False, *unsafe: Any) -> Any:
    if accumulate:
        return input.index_put_(indices, values, accumulate)
    input[_items(indices)] = values
    return input


def _items(indices: Sequence[Any]) -> Any:
    items = tuple(slice(None) if i is None else i for i in indices)
    return items[0] if len(items) == 1 else items


@twin("constant_pad_nd")
def constant_pad_nd(input: Any, pad: Any, value: Any = 0) -> Any:
    return F.pad(input, pad, "constant", value)


@twin("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def reflection_pad(input: Any, padding: Any) -> Any:
    return F.pad(input, padding, "reflect")


@twin("replication_pad1d", "replication_pad2d", "replication_pad3d")
def replication_pad(input: Any, padding: Any) -> Any:
    return F.pad(input, padding, "replicate")


@twin("im2col")
def im2col(input: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    return F.unfold(input, kernel_size, dilation, padding, stride)


@twin("col2im")
def col2im(input: Any, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    return F.fold(input, output_size, kernel_size, dilation, padding, stride)
