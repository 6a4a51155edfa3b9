"""Train and eval mode, which not all modules have, and exported programs."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from torch import nn

if TYPE_CHECKING:
    from torch.export import ExportedProgram

M = TypeVar("M", bound=nn.Module)


def evaluate(module: M) -> M:
    """Put a module into eval mode and return it. An exported one has no modes, and is left as it is."""
    return in_mode(module, training=False)


def in_mode(module: M, training: bool) -> M:
    """Put a module into train or eval mode and return it; an exported module is left as it is."""
    if not sets_modes(module):
        for part in module.modules():
            part.training = training
        return module
    with contextlib.suppress(NotImplementedError):  # what its `train` and `eval` raise
        module.train(training)
    return module


def sets_modes(module: nn.Module) -> bool:
    """False where the `train` of a part does not set a mode (it fits the part to data, say), and must not be called."""
    return all(type(part).train is nn.Module.train or _takes_mode(part.train) for part in module.modules())


def _takes_mode(train: Callable[..., Any]) -> bool:
    first = next(iter(inspect.signature(train).parameters.values()), None)
    if first is None or first.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        return False
    return first.default is inspect.Parameter.empty or isinstance(first.default, bool)


def is_program(x: Any) -> TypeGuard[ExportedProgram]:
    """True for an exported program. Imports nothing: unless torch.export was imported, there is none."""
    defining = sys.modules.get("torch.export.exported_program")
    return defining is not None and isinstance(x, defining.ExportedProgram)
