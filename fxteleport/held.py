"""Held: the tensors that a model holds, and whether it holds them still.

A model is walked in a quarter of `named_parameters`' time; to see whether anything was replaced since takes a tenth
of that, in loops that run in C.
"""

from __future__ import annotations

import operator
from collections.abc import Container
from typing import Any

from torch import Tensor, nn

from fxteleport.sharded import addresses, is_sharded


class Held:
    """A model's parameters and buffers as they were.

    Args:
        watched: the names of those that `still` is to look at, or None for all.

    Attributes:
        tensors: by name; tied ones under each of theirs.
    """

    def __init__(self, model: nn.Module, watched: Container[str] | None = None) -> None:
        self.tensors: dict[str, Tensor] = {}
        found: list[tuple[dict[str, Any], str, Any]] = []  # table, key, what it holds
        waiting = [("", model)]
        while waiting:
            prefix, module = waiting.pop()
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        self.tensors[prefix + name] = tensor
                        if watched is None or prefix + name in watched:
                            found.append((table, name, tensor))
            for name, child in module._modules.items():
                if child is not None and (child._parameters or child._buffers or child._modules):
                    waiting.append((f"{prefix}{name}.", child))
                    found.append((module._modules, name, child))
        self._places = [list(column) for column in zip(*found, strict=True)] or [[], [], []]
        self._tensors = [t for _, _, t in found if isinstance(t, Tensor)]
        self._sharded = any(map(is_sharded, self._tensors))
        self._data = self._addresses()

    def still(self) -> bool:
        """True if every module and every tensor is in its place, with its data where they were."""
        tables, names, objects = self._places
        same = all(map(operator.is_, map(dict.get, tables, names), objects))
        return same and self._addresses() == self._data

    def _addresses(self) -> list[int]:
        return addresses(self._tensors) if self._sharded else list(map(Tensor.data_ptr, self._tensors))
