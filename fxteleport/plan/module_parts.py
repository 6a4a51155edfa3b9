"""The parts of a model: for every module its class, its hooks, a replaced forward, and its parameters' shapes.

A plan holds for the parts that were traced. Values of weights do not belong to them, nor do buffers: a forward may
register one when it first runs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from fxteleport.passes.capture.exported_modules import is_check
from fxteleport.passes.errors import ModelError
from fxteleport.passes.graph.dtensor import unsharded
from fxteleport.passes.graph.leaf_modules import gradient_hooks
from fxteleport.passes.rules.operand import carries

PLAN_AGAIN = "since the plan was made: plan the model again"  # the end of every message about a changed model


class Part(NamedTuple):
    """One module: its class, the code of its hooks and of a replaced forward, its parameters' shapes and kinds.

    `gradient_hooks` are those that may change gradients: "" or the name of their parameter, and their code.
    """

    kind: type
    hooks: tuple[Any, ...]
    forward: Any
    parameters: dict[str, tuple[torch.Size, bool]]
    gradient_hooks: frozenset[tuple[str, Any]] = frozenset()


def parts_of(modules: dict[str, nn.Module]) -> dict[str, Part]:
    """The parts of a model, from its modules by path."""
    return {path: _part(module) for path, module in modules.items()}


def _part(module: nn.Module) -> Part:
    kind = unsharded(type(module))
    attributes = module.__dict__
    hooks: tuple[Any, ...] = ()
    if kind is type(module) and (attributes["_forward_hooks"] or attributes["_forward_pre_hooks"]):  # FSDP adds its own
        both = (*attributes["_forward_hooks"].values(), *attributes["_forward_pre_hooks"].values())
        hooks = tuple(_code(h) for h in both if not (_moves_shards(h) or is_check(h)))
    forward = _code(attributes["forward"]) if "forward" in attributes else None
    parameters = attributes["_parameters"].items()
    shapes = {name: (p.shape, _has_cob(p.dtype)) for name, p in parameters if p is not None}
    on_gradients = frozenset(_on_gradients(attributes)) if kind is type(module) else frozenset()
    return Part(kind, hooks, forward, shapes, on_gradients)


def _on_gradients(attributes: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The hooks that may change the gradients of a module and its parameters."""
    owners = [("", attributes["_backward_hooks"].values()), ("", attributes["_backward_pre_hooks"].values())]
    owners += [(n, hooks) for n, p in attributes["_parameters"].items() if p is not None for hooks in gradient_hooks(p)]
    yield from ((name, _code(hook)) for name, hooks in owners for hook in hooks if not _moves_shards(hook))


def require_same_parts(planned: dict[str, Part], now: dict[str, Part], same_classes: bool) -> None:
    """Raise ModelError, which names the first module that differs, unless a model has the planned parts.

    Args:
        same_classes: compare classes as objects; otherwise (a copy in another process) by their names.
    """
    for path in (*planned, *now):
        before, after = planned.get(path), now.get(path)
        if before is None or after is None:
            what = "is new" if before is None else "is gone"
        elif before == after:
            continue
        elif not (before.kind is after.kind or (not same_classes and _name(before.kind) == _name(after.kind))):
            what = f"was a {before.kind.__name__} and is a {after.kind.__name__}"
        elif before.hooks != after.hooks:
            what = "has other forward hooks"
        elif after.gradient_hooks - before.gradient_hooks:  # a parameter with a hook is pinned; a copy may lose it
            what = "has other backward hooks, or its parameters have,"
        elif before.forward is not after.forward:
            what = "has another forward"
        elif before.parameters != after.parameters:
            what = "holds other parameters"
        else:
            continue
        named = f"'{path}'" if path else "'the model itself'"
        raise ModelError(f"module {named} {what} {PLAN_AGAIN}")


@functools.cache
def _has_cob(dtype: torch.dtype) -> bool:
    return carries(torch.empty((), dtype=dtype, device="meta"))


def _code(function: Any) -> Any:
    """The code of a function, which its copies share; the class of a callable object."""
    function = getattr(function, "__func__", function)
    return getattr(function, "__code__", None if function is None else type(function))


def _moves_shards(hook: Any) -> bool:
    return (getattr(hook, "__module__", None) or "").startswith("torch.distributed.")


def _name(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__
