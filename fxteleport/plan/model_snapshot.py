"""A snapshot of a model: its tensors and modules by name, with a fast check whether any of them was replaced since.

Taking one costs a quarter of `named_parameters`; the check costs a tenth of that, in loops that run in C. The check
covers the settings and values that a plan assumes, too; `planned_model.py` then says what differs.
"""

from __future__ import annotations

import operator
from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.graph.dtensor import addresses, is_sharded
from fxteleport.passes.graph.settings import spelled
from fxteleport.plan.planned_model import PlannedModel
from fxteleport.plan.planned_settings import Spelled

_ON_GRADIENTS = operator.attrgetter("_backward_hooks", "_post_accumulate_grad_hooks")


class ModelSnapshot:
    """A model's parameters, buffers and modules at one moment.

    Args:
        watched: the names of the tensors that `is_current` checks, or None for all.
        planned: what a plan assumes, for `is_current` to check.

    Attributes:
        tensors: by name; tied ones under each of theirs.
    """

    def __init__(
        self, model: nn.Module, watched: Container[str] | None = None, planned: PlannedModel | None = None
    ) -> None:
        self.tensors: dict[str, Tensor] = {}
        entries: list[tuple[dict[str, Any], str, Any]] = []  # table, key, what it holds
        by_path: dict[str, nn.Module] = {}
        waiting = [("", model)]
        while waiting:
            prefix, module = waiting.pop()
            by_path[prefix[:-1]] = module
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        self.tensors[prefix + name] = tensor
                        if watched is None or prefix + name in watched:
                            entries.append((table, name, tensor))
            for name, child in module._modules.items():
                if child is not None:
                    waiting.append((f"{prefix}{name}.", child))
                    entries.append((module._modules, name, child))
        self._modules = list(by_path.values())
        entries += [(vars(m), "forward", vars(m).get("forward")) for m in self._modules]
        self._settings: list[tuple[Any, Any]] = []  # mutable settings, with descriptions of their values
        self._values: list[tuple[Tensor, Tensor]] = []
        self._trained: list[tuple[Tensor, bool]] = []
        if planned is not None:
            for (path, name), value in planned.settings.items():
                now = vars(by_path[path]).get(name)
                entries.append((vars(by_path[path]), name, now))
                if isinstance(value, Spelled):
                    self._settings.append((now, value.form))
            self._trained = [(t, w) for n, w in planned.trained.items() if (t := self.tensors.get(n)) is not None]
            self._values = [(t, v) for n, v in planned.values.items() if (t := self.tensors.get(n)) is not None]
            entries += [(*_home(by_path, n), self.tensors[n]) for n in planned.values if n in self.tensors]
        self._places = [list(column) for column in zip(*entries, strict=True)] or [[], [], []]
        self._tensors = [t for _, _, t in entries if isinstance(t, Tensor) and t.layout is torch.strided]
        self._sharded = any(map(is_sharded, self._tensors))
        self._data = self._addresses()
        self._strides = list(map(Tensor.stride, self._tensors))
        self._versions = [t._version for t, _ in self._values]
        self._kinds = list(map(type, self._modules))
        self._hooks = [
            hooks
            for m in self._modules
            for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
        ]
        self._hooked = self._handles()

    def is_current(self) -> bool:
        """True if no module, tensor, tensor's memory, setting or hook was replaced, added or removed.

        The values of index buffers are compared, too; on other devices than the CPU only their version counters are.
        """
        tables, names, objects = self._places
        return (
            all(map(operator.is_, map(dict.get, tables, names), objects))
            and self._addresses() == self._data
            and list(map(type, self._modules)) == self._kinds
            and self._handles() == self._hooked
            and list(map(Tensor.stride, self._tensors)) == self._strides
            and [t._version for t, _ in self._values] == self._versions
            and all(torch.equal(t, v) for t, v in self._values if t.is_cpu)
            and all(spelled(now) == before for now, before in self._settings)
            and all(t.requires_grad is trained for t, trained in self._trained)
        )

    def _handles(self) -> list[tuple[int, ...]]:
        """The ids of the hooks, which are unique."""
        on_gradients = [x for t in self._tensors for x in _ON_GRADIENTS(t) if x]
        return list(map(tuple, (*self._hooks, *on_gradients)))

    def _addresses(self) -> list[int]:
        return addresses(self._tensors) if self._sharded else list(map(Tensor.data_ptr, self._tensors))


def _home(by_path: dict[str, nn.Module], name: str) -> tuple[dict[str, Any], str]:
    """The table that holds a parameter or a buffer, and its key."""
    path, _, key = name.rpartition(".")
    module = by_path[path]
    return (module._parameters if key in module._parameters else module._buffers), key
