"""The table of networks: each is made by a function, which says how it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from survey import Call
from torch import Tensor, nn


@dataclass(frozen=True)
class Called:
    """A network, how it is called, and how else (with another batch, or other sizes)."""

    network: nn.Module
    given: Call
    others: tuple[Call, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A network of a library, which is made when it is asked for."""

    library: str
    name: str
    make: Callable[[], Called]


ENTRIES: list[Entry] = []


def of(library: str, name: str) -> Callable[[Callable[[], Called]], Callable[[], Called]]:
    """Add a network to the table."""

    def add(make: Callable[[], Called]) -> Callable[[], Called]:
        ENTRIES.append(Entry(library, name, make))
        return make

    return add


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tokens(batch: int, length: int) -> Tensor:
    """Token ids from 3 to 52."""
    return torch.arange(batch * length).view(batch, length) * 7 % 50 + 3


class Method(nn.Module):
    """A module of which people call another method than forward."""

    def __init__(self, inner: nn.Module, name: str) -> None:
        super().__init__()
        self.inner, self._name = inner, name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.inner, self._name)(*args, **kwargs)
