"""Arguments as a call is evaluated on them: the values behind proxies, in containers of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.proxy import Proxy, is_proxy, value_of
from fxteleport.passes.graph.containers import is_named_tuple, mapped_table
from fxteleport.passes.graph.structure import PLAIN


class Opened:
    """The values behind the arguments of a call.

    Attributes:
        args, kwargs: the arguments.
        handles: the proxies in them.
        lent: their lists and dictionaries, each with the copy that the call gets. What a proxy stands for is none of
            them: the emitted network hands on the object itself.
        constants: the tensors in them.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.handles: list[Proxy] = []
        self.lent: list[tuple[Any, Any]] = []
        self.constants: list[Tensor] = []
        self.args = self._open(args)
        self.kwargs = {k: self._open(v) for k, v in kwargs.items()}  # this dictionary is no one else's

    def _open(self, x: Any) -> Any:
        kind = type(x)
        if kind in PLAIN:
            return x
        if issubclass(kind, Proxy):
            return self._behind(x)
        if kind is tuple or kind is torch.Size:
            return kind([self._open(v) for v in x])
        if kind is list:
            self.lent.append((x, items := [self._open(v) for v in x]))
            return items
        if issubclass(kind, dict):
            self.lent.append((x, table := mapped_table(x, self._open)))
            return table
        if is_named_tuple(kind):
            return kind._make([self._open(v) for v in x])
        if kind is slice:
            return slice(*[self._open(v) for v in (x.start, x.stop, x.step)])
        if issubclass(kind, Tensor) and not x.is_inference():
            self.constants.append(x)
        return x

    def _behind(self, x: Proxy) -> Any:
        """What a proxy stands for; one that has outlived its trace is its value."""
        if not is_proxy(x):
            return self._open(value_of(x))
        if (own := proxy.own_of(x)) is not None:
            return self._open(own)
        self.handles.append(x)
        return value_of(x)


def handles_in(x: Any) -> list[Proxy]:
    """The proxies in an argument structure."""
    return Opened((x,), {}).handles
