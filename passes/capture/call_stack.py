"""The modules whose forward is running: where in the model a call is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from fxteleport.passes.graph.module_clone import path_of


class CallStack:
    """The shadow modules whose forward is running, outermost first."""

    def __init__(self) -> None:
        self._modules: list[nn.Module] = []

    def __len__(self) -> int:
        return len(self._modules)

    @property
    def innermost(self) -> nn.Module | None:
        """The module whose code is running."""
        return self._modules[-1] if self._modules else None

    @property
    def path(self) -> str:
        """Its dotted name; "" for the model itself, and outside any forward."""
        return path_of(self._modules[-1]) if self._modules else ""

    @property
    def where(self) -> str:
        """Its name in a message."""
        return self.path or "the model"

    @contextmanager
    def inside(self, module: nn.Module) -> Iterator[None]:
        """While this lasts, the forward of a module is running. After an error the stack still has that module."""
        self._modules.append(module)
        yield
        self._modules.pop()

    def unwind(self, depth: int) -> None:
        """Pop all but the outermost `depth` modules."""
        del self._modules[depth:]
