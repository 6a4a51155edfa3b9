"""The table of twins by the name of the operator's schema; `aten.py` looks them up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

TWINS: dict[str, Callable[..., Any]] = {}


class Beside:
    """What an operator with several results gives: the first as a twin computes it, the others by the operator itself.

    The others are rarely read (`native_dropout`: the mask), and whoever asks for them gets the operator itself.

    Attributes:
        first: the value.
        others: gives all of them; where the twin does not say how, the operator itself.
    """

    def __init__(self, first: Any, others: Callable[[], Any] | None = None) -> None:
        self.first, self.others = first, others
        self._others: Any = None

    def __getitem__(self, index: int) -> Any:
        if index == 0:
            return self.first
        if self._others is None:
            assert self.others is not None
            self._others = self.others()
        return self._others[index]

    def __iter__(self) -> Iterator[Any]:
        self[1]
        return (self[i] for i in range(len(self._others)))


def twin(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the twin of operators, by the names of their schemas."""

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            assert name not in TWINS, name
            TWINS[name] = fn
        return fn

    return register
