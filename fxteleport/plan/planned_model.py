"""The planned model: what a plan assumes of its model, and the check whether a model still satisfies it.

A plan reads no values of weights. It assumes the classes of modules, their hooks and replaced forwards
(`module_parts.py`), the settings that the trace or a rule has read (`planned_settings.py`), the values of the index
buffers that the trace has read, which names are one tensor, and which tensors share memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.capture.model_tensors import named_tensors
from fxteleport.passes.constrain.fixed_tensors import unsaved
from fxteleport.passes.errors import ModelError
from fxteleport.passes.graph.dtensor import is_sharded
from fxteleport.passes.graph.module_clone import modules_of
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.settings import digest, said
from fxteleport.passes.graph.storage import by_memory, overlapping
from fxteleport.plan.module_parts import PLAN_AGAIN, Part, parts_of, require_same_parts
from fxteleport.plan.planned_settings import Where, form_of, require_same_settings, settings_of


@dataclass(frozen=True)
class PlannedModel:
    """What a plan assumes of its model.

    Attributes:
        parts: every module by its path, a shared one under each of its paths.
        settings: (module's path, attribute) -> its value, or a description (`Spelled`) of a mutable one.
        values: the values of the index buffers that the trace has read.
        trained: the `requires_grad` of parameters, where forward reads it.
        firsts: name of a parameter or buffer -> the first name of the same tensor.
        overlapping: tensors that share memory with others.
        moving: the names of the tensors that the plan scales.
        saved: the names in the state dict.
        held: tensors that code refers to directly, beside their modules, by their first names.
    """

    parts: dict[str, Part]
    settings: dict[Where, Any]
    values: dict[str, Tensor]
    trained: dict[str, bool]
    firsts: dict[str, str]
    overlapping: frozenset[str]
    moving: frozenset[str]
    saved: frozenset[str]
    held: dict[str, Tensor]

    def require(self, model: nn.Module, itself: bool = True) -> None:
        """Raise ModelError, which says what differs and where, unless a model satisfies all of this.

        Args:
            itself: it is the planned model; for another one, the names of classes suffice.
        """
        modules = modules_of(model)
        require_same_parts(self.parts, parts_of(modules), itself)
        require_same_settings(self.settings, modules)
        tensors = {name: t for name, t in named_tensors(modules) if name in self.firsts}
        for name in self.values.keys() & tensors.keys():
            self.require_value(name, tensors[name])
        for name in self.trained.keys() & tensors.keys():
            if tensors[name].requires_grad is not self.trained[name]:
                was = "required a" if self.trained[name] else "required no"
                raise ModelError(f"'{name}' {was} gradient, and forward asks for that: it was changed {PLAN_AGAIN}")
        self._require_ties(tensors, itself)
        for name, before in self.held.items() if itself else ():
            if tensors[name] is not before:
                raise ModelError(
                    f"'{name}' is another tensor, and code that holds it by itself keeps the old one, {PLAN_AGAIN}"
                )

    def require_value(self, name: str, now: Tensor) -> None:
        """Raise ModelError unless an index buffer has its planned value; one on the meta device has no value."""
        if is_sharded(now):
            now = now.to_local()  # type: ignore[attr-defined]
        before = self.values.get(name)
        if before is None or now.is_meta:
            return
        if now.shape != before.shape or now.dtype != before.dtype or not torch.equal(now.detach().cpu(), before):
            raise ModelError(f"the buffer '{name}' does not hold what it held, and the plan rests on that {PLAN_AGAIN}")

    def _require_ties(self, tensors: dict[str, Tensor], itself: bool) -> None:
        own: dict[int, str] = {}
        firsts = {name: own.setdefault(id(t), name) for name, t in tensors.items()}
        for name, now in firsts.items():
            before = self.firsts[name]
            if self.firsts[now] != before:
                hint = "" if itself else " (a plan of a copy: .to('meta') cuts ties, ft.without_weights() keeps them)"
                raise ModelError(f"'{name}' is tied to '{now}', which it was not{hint}, {PLAN_AGAIN}")
            if now != before and before in tensors and not is_sharded(tensors[name]):  # sharding may untie
                raise ModelError(f"'{name}' is not tied to '{before}' any more {PLAN_AGAIN}")
        one_each = {name: tensors[name] for name in own.values()}
        new = overlapping(one_each, by_memory(one_each)) - self.overlapping
        first = next((n for n in one_each if n in new and n in self.moving), None)
        if first is not None:
            raise ModelError(f"'{first}' shares memory with another tensor, or with itself, {PLAN_AGAIN}")

    def hash_of_settings(self) -> str:
        """A hash of the settings, and of the index buffers outside the state dict; the same in every process."""
        sha = hashlib.sha256()
        for (path, name), value in sorted(self.settings.items(), key=lambda item: item[0]):
            sha.update(f"{path}.{name}={said(form_of(value))};".encode())
        for name in sorted(self.values.keys() - self.saved):
            sha.update(f"{name}={digest(self.values[name])};".encode())
        return sha.hexdigest()[:32]


def planned_model(captured: Captured, moving: frozenset[str]) -> PlannedModel:
    """What a plan assumes of the captured model.

    Args:
        moving: the names of the tensors that the plan scales.
    """
    modules = modules_of(captured.model)
    held = {captured.canonical[n] for reached in captured.reached.values() for n in reached.tensors} | captured.held
    return PlannedModel(
        parts_of(modules),
        settings_of(captured),
        dict(_values(captured)),
        captured.trained,
        {name: first for name, first in captured.canonical.items() if name not in captured.assigned},
        captured.overlapping,
        moving,
        frozenset(captured.metas) - frozenset(unsaved(captured)),
        {name: tensor for name, tensor in named_tensors(modules) if name in held and name not in captured.assigned},
    )


def _values(captured: Captured) -> Iterator[tuple[str, Tensor]]:
    """The index buffers that the trace has read, by name: their values are known in the graph."""
    for node in (node for graph in captured.graphs for node in graph.nodes):
        value, name = info(node).value, str(node.target)
        if node.op != "get_attr" or name not in captured.metas or name in captured.assigned or info(node).trust:
            continue
        if isinstance(value, Tensor) and not value.is_meta and value.layout is torch.strided:
            yield name, value
