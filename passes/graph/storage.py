"""Overlap: tensors of a model that are not the same, and yet lie in the same memory.

Tied weights are one tensor under several names. Views of one memory (`decoder.weight.data = encoder.weight.data.t()`,
a parameter that was expanded) are several: to scale each in place would scale their elements more than once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fxteleport.passes.graph.dtensor import is_sharded


def dense_parts(tensor: Tensor) -> list[Tensor]:
    """The tensors that one consists of: itself, or the indices and the values of a sparse one."""
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor]


def memory(tensor: Tensor) -> set[int]:
    """Which memory a tensor lies in."""
    return {int(part.untyped_storage()._cdata) for part in dense_parts(tensor)}


def is_same(one: Any, other: Any) -> bool:
    """True for tensors that are the same elements in memory."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor) and one.layout is other.layout is torch.strided):
        return False
    layouts = [(x.dtype, x.shape, x.stride(), x.storage_offset()) for x in (one, other)]
    return layouts[0] == layouts[1] and memory(one) == memory(other)


def equal(a: Tensor, b: Tensor) -> bool:
    """`torch.equal`, of sparse tensors too."""
    return a.layout is b.layout and all(map(torch.equal, dense_parts(a), dense_parts(b)))


def by_memory(tensors: Mapping[str, Tensor]) -> dict[int, list[str]]:
    """The names of the tensors in each memory."""
    memories: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.layout is torch.strided and not is_sharded(tensor) and tensor.numel():
            memories.setdefault(tensor.untyped_storage()._cdata, []).append(name)
    return memories


def overlapping(tensors: Mapping[str, Tensor], memories: Mapping[int, list[str]]) -> set[str]:
    """The names of tensors that share an element with another tensor, or have two elements in one place of memory.

    Views whose elements alternate in memory count, too.
    """
    shared: set[str] = set()
    for names in memories.values():
        if len(names) == 1 and tensors[names[0]].is_contiguous():
            continue
        reached, holder = 0, ""
        for start, end, name in sorted((*_extent(tensors[name]), name) for name in names):
            if start < reached:
                shared |= {name, holder}
            if end - start < tensors[name].numel() * tensors[name].itemsize:
                shared.add(name)
            if end > reached:
                reached, holder = end, name
    return shared


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Where its elements begin and end in memory, in bytes."""
    length = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset()) * tensor.itemsize
    return start, start + int(length) * tensor.itemsize
