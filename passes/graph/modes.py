"""Modes of modules: `eval()` for those that have one."""

from __future__ import annotations

import contextlib
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def evaluate(module: M) -> M:
    """Put a module into eval mode and return it. An exported one has no modes, and is left as it is."""
    with contextlib.suppress(NotImplementedError):  # what its `train` and `eval` raise
        module.eval()
    return module
