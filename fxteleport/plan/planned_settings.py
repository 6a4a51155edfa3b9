"""The settings that a plan assumes: those that the trace has read, and those of leaf modules.

A trace specialises the settings that it reads (a stride, a flag): with another value, the model may compute something
else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.capture.inner_calls import is_below
from fxteleport.passes.capture.leaf_table import WHOLE
from fxteleport.passes.errors import ModelError
from fxteleport.passes.graph.module_clone import BESIDE, BOOKKEEPING, PATH, is_clone, path_of
from fxteleport.passes.graph.settings import said, setting_of, spelled
from fxteleport.passes.graph.structure import PLAIN
from fxteleport.plan.module_parts import PLAN_AGAIN

Where = tuple[str, str]  # a module's path and an attribute of it
_NO_SETTINGS = BOOKKEEPING | {"_compiled_call_impl", "forward", PATH, BESIDE}  # the last two are a clone's


@dataclass(frozen=True)
class Spelled:
    """The description of a mutable value (a list, an object) at planning."""

    form: Any


def settings_of(captured: Captured) -> dict[Where, Any]:
    """Each setting's value, or the `Spelled` description of a mutable one."""
    return {where: _kept(value) for where, value in _read(captured) if where not in captured.state}


def require_same_settings(planned: dict[Where, Any], modules: dict[str, nn.Module]) -> None:
    """Raise ModelError, which names the first setting that differs, unless a model has the planned settings."""
    for (path, name), before in planned.items():
        now = setting_of(modules[path], name)
        if now is before or (type(now) is type(before) and now == before) or form_of(now) == form_of(before):
            continue
        where = f"'{path}'" if path else "the model itself"
        raise ModelError(
            f"the setting '{name}' of {where} was {said(form_of(before))} and is {said(form_of(now))} {PLAN_AGAIN}"
        )


def form_of(value: Any) -> Any:
    """The description of a setting, by which two of them are compared."""
    return value.form if isinstance(value, Spelled) else spelled(value)


def _kept(value: Any) -> Any:
    return value if _is_immutable(value) else Spelled(spelled(value))


def _is_immutable(value: Any) -> bool:
    return type(value) in PLAIN or (isinstance(value, tuple) and all(map(_is_immutable, value)))


def _read(captured: Captured) -> Iterator[tuple[Where, Any]]:
    """The settings that the trace has read, and all attributes of leaf layers; none of opaque modules."""
    hidden = tuple(f"{path}." for path in captured.opaque)
    if WHOLE in captured.opaque and not captured.inner:
        return
    hidden = ("",) if WHOLE in captured.opaque else hidden
    for path, name in captured.settings:
        if not f"{path}.".startswith(hidden) or is_below(f"{path}.", captured.inner):
            yield (path, name), setting_of(captured.parts[path], name)
    nodes = [node for graph in captured.graphs for node in graph.nodes]
    for path in dict.fromkeys(_owner(captured, str(n.target)) for n in nodes if n.op == "call_module"):
        module = captured.parts.get(path)
        if module is None or path in captured.added or path in captured.opaque:
            continue
        held = vars(module)
        if path in captured.classes:  # a batch norm subclass, whose other code is traced
            names = set(getattr(captured.classes[path], "__constants__", ()))
            held = {name: value for name, value in held.items() if name in names}
        yield from [((path, name), value) for name, value in held.items() if name not in _NO_SETTINGS]


def _owner(captured: Captured, path: str) -> str:
    """The path of the model's layer that a leaf stands for."""
    leaf = captured.added.get(path)
    owner = getattr(leaf, "layer", leaf)
    return path_of(owner) if isinstance(owner, nn.Module) and is_clone(owner) else path
