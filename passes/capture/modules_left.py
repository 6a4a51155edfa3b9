"""Modules left: parts and hooks that forward gives to modules, or takes away. The next run finds them so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from fxteleport.passes.capture.control_flow import DataDependent
from fxteleport.passes.graph.module_clone import is_clone, path_of

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class InModules:
    """What forward leaves among a module's parts, or None for one that it takes away."""

    def __init__(self, part: nn.Module | None) -> None:
        self.part = part

    def put(self, holder: nn.Module, name: str, shadows: Mapping[str, nn.Module]) -> None:
        """Let a module of another trace have it: a part of the model's own as that trace has it."""
        vars(holder).pop(name, None)  # None stands there, where no module is
        if self.part is None:
            holder._modules.pop(name, None)
        else:
            holder._modules[name] = shadows[path_of(self.part)] if is_clone(self.part) else self.part


def modules_left(
    shadows: Iterable[nn.Module], parts: Mapping[str, nn.Module]
) -> Iterator[tuple[tuple[str, str], InModules]]:
    """The parts that forward has added, taken away or put in the place of others: (module's path, name), and that.

    Args:
        parts: the modules that the shadows were made of, by path.

    Raises:
        DataDependent: it leaves hooks, which no graph calls.
    """
    for shadow in shadows:
        path = path_of(shadow)
        own = parts[path]
        for table in _HOOKS:
            if vars(shadow)[table].keys() != vars(own)[table].keys():
                raise DataDependent(
                    "its forward registers a hook, or removes one, which the next run would not find so"
                )
        now, then = shadow._modules, own._modules
        for name in now if now.keys() == then.keys() else {**then, **now}:
            part = now.get(name)
            if not _stands_for(part, then.get(name), parts):
                yield (path, name), InModules(part)


def _stands_for(part: nn.Module | None, of: nn.Module | None, parts: Mapping[str, nn.Module]) -> bool:
    """True for the shadow of a module, and for nothing in the place of nothing."""
    if part is None or of is None:
        return part is of
    return is_clone(part) and parts.get(path_of(part)) is of
