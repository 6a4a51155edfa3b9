"""Held: the tensors and modules that a model holds, and whether it holds them still.

A model is walked in a quarter of `named_parameters`' time; to see whether anything was replaced since takes a tenth
of that, in loops that run in C.
"""

from __future__ import annotations

import operator
from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.errors import ModelError
from fxteleport.passes.leaves import hooked
from fxteleport.sharded import addresses, is_sharded, unsharded


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
        self._modules: list[nn.Module] = []
        waiting = [("", model)]
        while waiting:
            prefix, module = waiting.pop()
            self._modules.append(module)
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        self.tensors[prefix + name] = tensor
                        if watched is None or prefix + name in watched:
                            found.append((table, name, tensor))
            for name, child in module._modules.items():
                if child is not None:
                    waiting.append((f"{prefix}{name}.", child))
                    found.append((module._modules, name, child))
        self._places = [list(column) for column in zip(*found, strict=True)] or [[], [], []]
        self._tensors = [t for _, _, t in found if isinstance(t, Tensor) and t.layout is torch.strided]
        self._sharded = any(map(is_sharded, self._tensors))
        self._data = self._addresses()
        self._kinds = list(map(type, self._modules))
        self._hooks = [hooks for m in self._modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self._hooked = list(map(bool, self._hooks))

    def still(self) -> bool:
        """True if every module and every tensor is in its place, with its data where they were, and no new hooks."""
        tables, names, objects = self._places
        return (
            all(map(operator.is_, map(dict.get, tables, names), objects))
            and self._addresses() == self._data
            and list(map(type, self._modules)) == self._kinds
            and list(map(bool, self._hooks)) == self._hooked
        )

    def _addresses(self) -> list[int]:
        return addresses(self._tensors) if self._sharded else list(map(Tensor.data_ptr, self._tensors))


Structure = dict[str, tuple[type, bool, dict[str, torch.Size]]]


def structure(model: nn.Module) -> Structure:
    """What a plan rests on: each module's class, whether hooks change it, its parameters' shapes.

    Not its buffers: a forward may make one when it first runs.
    """
    found: Structure = {}
    waiting = [("", model)]
    seen: set[int] = set()
    while waiting:
        path, module = waiting.pop()
        shapes = {name: p.shape for name, p in module._parameters.items() if p is not None}
        kind = unsharded(type(module))  # FSDP makes a class of its own, and hooks
        found[path] = (kind, hooked(module) and kind is type(module), shapes)
        if id(module) in seen:
            continue
        seen.add(id(module))
        prefix = f"{path}." if path else ""
        waiting += [(prefix + name, child) for name, child in module._modules.items() if child is not None]
    return found


def require_structure(model: nn.Module, planned: Structure) -> None:
    """Raise ModelError where a model's modules are no longer what was planned."""
    now = structure(model)
    if now == planned:
        return
    path = next((p for p in (*planned, *now) if planned.get(p) != now.get(p)), "")
    before, after = planned.get(path), now.get(path)
    if before is None or after is None:
        what = "is new" if before is None else "is gone"
    elif before[0] is not after[0]:
        what = f"was a {before[0].__name__} and is a {after[0].__name__}"
    else:
        what = "has other forward hooks" if before[1] != after[1] else "holds other parameters"
    raise ModelError(f"module '{path or 'the model itself'}' {what} since the plan was made: plan the model again")
