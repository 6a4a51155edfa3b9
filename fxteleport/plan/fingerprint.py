"""Unchanged: what a plan rests on in a model, and whether a model is still (or also) like that.

Not the values of weights: a plan reads none. But the classes of modules, their hooks and replaced forwards, the
settings that the trace or a rule has read, the values of the index buffers that it has looked into, the shapes of
parameters, which names are one tensor, and which tensors share memory.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fxteleport.passes.capture.arguments import named_tensors
from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.capture.leaf_calls import WHOLE
from fxteleport.passes.constrain.interpreter import unsaved
from fxteleport.passes.errors import ModelError
from fxteleport.passes.graph.dtensor import is_sharded, unsharded
from fxteleport.passes.graph.module_clone import BOOKKEEPING
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.settings import digest, said, spelled
from fxteleport.passes.graph.storage import by_memory, overlapping
from fxteleport.passes.graph.structure import PLAIN
from fxteleport.passes.rules.call import carries

_NO_SETTINGS = BOOKKEEPING | {"_compiled_call_impl", "forward", "_path", "_beside"}  # some are of a clone
_AGAIN = "since the plan was made: plan the model again"


class Part(NamedTuple):
    """A module: its class, its hooks' code, that of a forward of its own, its parameters' shapes and kinds."""

    kind: type
    hooks: tuple[Any, ...]
    forward: Any
    parameters: dict[str, tuple[torch.Size, bool]]


@dataclass(frozen=True)
class Planned:
    """What a plan rests on in its model.

    Attributes:
        parts: every module by its path, a shared one under each of its paths.
        settings: (module's path, attribute) -> its value, or as it was `spelled` where that may change.
        values: what the index buffers held that the trace has looked into.
        firsts: name of a parameter or buffer -> the first name of the same tensor.
        overlapping: tensors that share memory with others.
        moving: the names of those that the plan scales.
        saved: the names that the state dict has.
    """

    parts: dict[str, Part]
    settings: dict[tuple[str, str], Any]
    values: dict[str, Tensor]
    firsts: dict[str, str]
    overlapping: frozenset[str]
    moving: frozenset[str]
    saved: frozenset[str]

    def require(self, model: nn.Module, itself: bool = True) -> None:
        """Raise ModelError, which says what is different where, unless a model is what was planned.

        Args:
            itself: it is the planned model; of another, the classes need but the same names.
        """
        modules = modules_of(model)
        _require_parts(self.parts, parts_of(modules), itself)
        for (path, name), before in self.settings.items():
            now = vars(modules[path]).get(name)
            if now is before or (type(now) is type(before) and now == before) or _form(now) == _form(before):
                continue
            raise ModelError(
                f"the setting '{name}' of {_place(path)} was {said(_form(before))} and is {said(_form(now))} {_AGAIN}"
            )
        tensors = {name: t for name, t in named_tensors(modules) if name in self.firsts}
        for name in self.values.keys() & tensors.keys():
            self.require_value(name, tensors[name])
        self._require_ties(tensors, itself)

    def require_value(self, name: str, now: Tensor) -> None:
        """Raise ModelError unless an index buffer holds what it held; one on meta holds nothing."""
        if is_sharded(now):
            now = now.to_local()  # type: ignore[attr-defined]
        before = self.values.get(name)
        if before is None or now.is_meta:
            return
        if now.shape != before.shape or now.dtype != before.dtype or not torch.equal(now.detach().cpu(), before):
            raise ModelError(f"the buffer '{name}' does not hold what it held, and the plan rests on that {_AGAIN}")

    def _require_ties(self, tensors: dict[str, Tensor], itself: bool) -> None:
        own: dict[int, str] = {}
        firsts = {name: own.setdefault(id(t), name) for name, t in tensors.items()}
        for name, now in firsts.items():
            before = self.firsts[name]
            if self.firsts[now] != before:
                hint = "" if itself else " (a plan of a copy: .to('meta') cuts ties, ft.without_weights() keeps them)"
                raise ModelError(f"'{name}' is tied to '{now}', which it was not{hint}, {_AGAIN}")
            if now != before and before in tensors and not is_sharded(tensors[name]):  # sharding may untie
                raise ModelError(f"'{name}' is not tied to '{before}' any more {_AGAIN}")
        one_each = {name: tensors[name] for name in own.values()}
        new = overlapping(one_each, by_memory(one_each)) - self.overlapping
        first = next((n for n in one_each if n in new and n in self.moving), None)
        if first is not None:
            raise ModelError(f"'{first}' shares memory with another tensor, or with itself, {_AGAIN}")

    def hash_of_settings(self) -> str:
        """A hash of the settings, and of the index buffers that no state dict holds; the same in every process."""
        sha = hashlib.sha256()
        for (path, name), value in sorted(self.settings.items(), key=lambda item: item[0]):
            sha.update(f"{path}.{name}={said(_form(value))};".encode())
        for name in sorted(self.values.keys() - self.saved):
            sha.update(f"{name}={digest(self.values[name])};".encode())
        return sha.hexdigest()[:32]


def planned(captured: Captured, moving: frozenset[str]) -> Planned:
    """What a plan rests on in the model that was captured."""
    return Planned(
        parts_of(modules_of(captured.model)),
        {where: kept(value) for where, value in _settings(captured) if where not in captured.state},
        dict(_values(captured)),
        {name: first for name, first in captured.canonical.items() if name not in captured.assigned},
        captured.overlapping,
        moving,
        frozenset(captured.metas) - frozenset(unsaved(captured)),
    )


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by its path, a shared one under each of its paths; in a third of `named_modules`' time."""
    found: dict[str, nn.Module] = {}
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop()
        found[path] = module
        if module._modules:
            prefix = f"{path}." if path else ""
            waiting += [(prefix + n, m) for n, m in reversed(module._modules.items()) if m is not None]
    return found


def parts_of(modules: dict[str, nn.Module]) -> dict[str, Part]:
    """What modules are like. Not their buffers: a forward may make one when it first runs."""
    found: dict[str, Part] = {}
    for path, module in modules.items():
        kind = unsharded(type(module))  # FSDP makes a class of its own, and hooks
        held = module.__dict__
        hooks: tuple[Any, ...] = ()
        if kind is type(module) and (held["_forward_hooks"] or held["_forward_pre_hooks"]):
            both = (*held["_forward_hooks"].values(), *held["_forward_pre_hooks"].values())
            hooks = tuple(_code(h) for h in both if not _moves_shards(h))
        forward = _code(held["forward"]) if "forward" in held else None
        shapes = {name: (p.shape, _has_cob(p.dtype)) for name, p in held["_parameters"].items() if p is not None}
        found[path] = Part(kind, hooks, forward, shapes)
    return found


def _require_parts(planned: dict[str, Part], now: dict[str, Part], itself: bool) -> None:
    for path in (*planned, *now):
        before, after = planned.get(path), now.get(path)
        if before is None or after is None:
            what = "is new" if before is None else "is gone"
        elif before == after:
            continue
        elif not (before.kind is after.kind or (not itself and _name(before.kind) == _name(after.kind))):
            what = f"was a {before.kind.__name__} and is a {after.kind.__name__}"
        elif before.hooks != after.hooks:
            what = "has other forward hooks"
        elif before.forward is not after.forward:
            what = "has another forward"
        elif before.parameters != after.parameters:
            what = "holds other parameters"
        else:
            continue
        raise ModelError(f"module {_place(path, quoted=True)} {what} {_AGAIN}")


def _settings(captured: Captured) -> Iterator[tuple[tuple[str, str], Any]]:
    """(path, attribute) and value: what the trace has read, and all that a layer has that is kept whole, not opaque."""
    hidden = tuple(f"{path}." for path in captured.opaque)
    if WHOLE in captured.opaque:
        return
    for path, name in captured.settings:
        if not f"{path}.".startswith(hidden):
            yield (path, name), vars(captured.parts[path]).get(name)
    nodes = [node for graph in captured.graphs for node in graph.nodes]
    for path in dict.fromkeys(_owner(captured, str(n.target)) for n in nodes if n.op == "call_module"):
        module = captured.parts.get(path)
        if module is None or path in captured.added or path in captured.opaque:
            continue
        names = vars(module).keys() - _NO_SETTINGS
        if path in captured.classes:  # the rest of it is traced
            names &= set(getattr(captured.classes[path], "__constants__", ()))
        held = vars(module)
        yield from (((path, name), held[name]) for name in names if name in held)


def _owner(captured: Captured, path: str) -> str:
    """The path of the layer that a leaf is, or is made of with other tensors or settings."""
    leaf = captured.added.get(path)
    return str(vars(getattr(leaf, "layer", leaf)).get("_path", path)) if isinstance(leaf, nn.Module) else path


def _values(captured: Captured) -> Iterator[tuple[str, Tensor]]:
    for node in (node for graph in captured.graphs for node in graph.nodes):
        value, name = info(node).value, str(node.target)
        if node.op != "get_attr" or name not in captured.metas or name in captured.assigned or info(node).trust:
            continue
        if isinstance(value, Tensor) and not value.is_meta and value.layout is torch.strided:
            yield name, value


def kept(value: Any) -> Any:
    """A value that can be held against that of another time: itself, where it can but be replaced."""
    return value if is_fixed(value) else Spelled(spelled(value))


def is_fixed(value: Any) -> bool:
    """True for what can but be replaced."""
    return type(value) in PLAIN or (isinstance(value, tuple) and all(map(is_fixed, value)))


@dataclass(frozen=True)
class Spelled:
    """What a value was."""

    form: Any


def _form(value: Any) -> Any:
    return value.form if isinstance(value, Spelled) else spelled(value)


@functools.cache
def _has_cob(dtype: torch.dtype) -> bool:
    return carries(torch.empty((), dtype=dtype, device="meta"))


def _code(function: Any) -> Any:
    """What tells a function from another, and not from its copy."""
    function = getattr(function, "__func__", function)
    return getattr(function, "__code__", None if function is None else type(function))


def _moves_shards(hook: Any) -> bool:
    return (getattr(hook, "__module__", None) or "").startswith("torch.distributed.")


def _name(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


def _place(path: str, quoted: bool = False) -> str:
    return f"'{path}'" if path else "'the model itself'" if quoted else "the model itself"
