"""Submodules and hooks that forward adds to modules, or removes: the next run starts with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from fxteleport.passes.capture.control_flow import DataDependent
from fxteleport.passes.graph.module_clone import is_clone, path_of

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class InModules:
    """A submodule that forward leaves in a module; None for one that it removes."""

    def __init__(self, part: nn.Module | None) -> None:
        self.part = part

    def put(self, holder: nn.Module, name: str, shadows: Mapping[str, nn.Module]) -> None:
        """Put it into a module of another trace: for a part of the model, the shadow of that trace."""
        vars(holder).pop(name, None)  # None is a plain attribute where there is no module
        if self.part is None:
            holder._modules.pop(name, None)
        else:
            holder._modules[name] = shadows[path_of(self.part)] if is_clone(self.part) else self.part


class ModulesLeft:
    """The submodules and hooks of modules before forward runs, to compare with those afterwards."""

    def __init__(self, shadows: Iterable[nn.Module]) -> None:
        self._found = [(shadow, dict(shadow._modules), _hooks(shadow)) for shadow in shadows]

    def left(self) -> Iterator[tuple[tuple[str, str], InModules]]:
        """The submodules that forward has added, removed or replaced: (module's path, name), and the new state.

        Raises:
            DataDependent: it leaves hooks, which no graph calls.
        """
        for shadow, then, hooks in self._found:
            if _hooks(shadow) != hooks:
                raise DataDependent("its forward leaves a module with other hooks than it finds")
            now = shadow._modules
            for name in {**then, **now}:
                if now.get(name) is not then.get(name):
                    yield (path_of(shadow), name), InModules(now.get(name))


def _hooks(module: nn.Module) -> tuple[tuple[int, ...], ...]:
    held = vars(module)
    return tuple([tuple(held[table]) for table in _HOOKS])
