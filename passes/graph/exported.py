"""What of a module's interface an exported one does not have: modes; and what a program is."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from torch import nn

if TYPE_CHECKING:
    from torch.export import ExportedProgram

M = TypeVar("M", bound=nn.Module)


def evaluate(module: M) -> M:
    """Put a module into eval mode and return it. An exported one has no modes, and is left as it is."""
    return in_mode(module, training=False)


def in_mode(module: M, training: bool) -> M:
    """Put a module into a mode and return it, but an exported one."""
    with contextlib.suppress(NotImplementedError):  # what its `train` and `eval` raise
        module.train(training)
    return module


def is_program(x: Any) -> TypeGuard[ExportedProgram]:
    """True for an exported program. Nothing is imported: without torch.export there is none."""
    defining = sys.modules.get("torch.export.exported_program")
    return defining is not None and isinstance(x, defining.ExportedProgram)
