"""The tensors of a model, by name and by identity, with the meta tensors that stand for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from fxteleport.passes.capture.meta_values import META
from fxteleport.passes.graph.storage import by_memory, memory, overlapping


class ModelTensors:
    """The parameters and buffers of a model's modules.

    Attributes:
        metas: name -> a meta tensor; integer and boolean tensors are real, since they index and branch.
        canonical: name -> the first name of the same tensor, so that tied weights are one.
        names: id of a tensor -> its first name.
        parameters: the first names of those that are parameters.
        trained: the first names of those that require a gradient.
        overlapping: first names of tensors that share memory with others.
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        self._parts = parts
        self.metas: dict[str, Tensor] = {}
        self.canonical: dict[str, str] = {}
        self.names: dict[int, str] = {}
        tensors: dict[str, Tensor] = {}
        for name, tensor in named_tensors(parts):
            first = self.canonical[name] = self.names.setdefault(id(tensor), name)
            self.metas[name] = self.metas[first] if first in self.metas else _meta_of(tensor)
            tensors[first] = tensor
        self.parameters = {name for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}
        self.trained = {name for name, tensor in tensors.items() if tensor.requires_grad}
        self._memories = by_memory(tensors)
        self.overlapping = overlapping(tensors, self._memories)

    def buffer(self, name: str) -> Tensor | None:
        """A buffer of the model's own; None for another name."""
        path, _, own = name.rpartition(".")
        return self._parts[path]._buffers.get(own) if path in self._parts else None

    def share_memory_with(self, tensor: Tensor) -> None:
        """Note that another tensor is in use: the model's tensors in the same memory overlap with it."""
        for storage in memory(tensor):
            self.overlapping.update(self._memories.get(storage, ()))


def named_tensors(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """The parameters, then the buffers, of a model's modules (under each of their paths)."""
    for table in ("_parameters", "_buffers"):
        for path, module in modules.items():
            if held := getattr(module, table):
                prefix = f"{path}." if path else ""
                for name, tensor in held.items():
                    if tensor is not None:
                        yield prefix + name, tensor


def _meta_of(tensor: Tensor) -> Tensor:
    if tensor.is_meta:
        return tensor.detach()
    if tensor.is_floating_point() or tensor.is_complex():
        return torch.empty_like(tensor, device=META)
    return tensor.detach().cpu()
