"""The arguments on which a call is evaluated: the values behind proxies, in copies of their containers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.proxy import Proxy, is_proxy, value_of
from fxteleport.passes.graph.containers import RECORD, kind_of, mapped
from fxteleport.passes.graph.contents import FILLED
from fxteleport.passes.graph.structure import PLAIN


class Opened:
    """The values behind the arguments of a call.

    Attributes:
        args, kwargs: the arguments.
        handles: the proxies in them.
        lent: their lists and dictionaries, each with the copy that the call gets; without those that a proxy stands
            for, which the emitted network passes on itself.
        constants: the tensors in them.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.handles: list[Proxy] = []
        self.lent: list[tuple[Any, Any]] = []
        self.constants: list[Tensor] = []
        self.args = self._open(args)
        self.kwargs = {k: self._open(v) for k, v in kwargs.items()}  # code cannot refer to this dictionary

    def _open(self, x: Any) -> Any:
        kind = type(x)
        if kind in PLAIN:
            return x
        if issubclass(kind, Proxy):
            return self._behind(x)
        if issubclass(kind, Tensor):
            if not x.is_inference():
                self.constants.append(x)
            return x
        container = kind_of(kind)
        if container is None or (container is RECORD and proxy.find_trace(x) is None):  # passed on itself
            return x
        made = mapped(x, self._open)
        if issubclass(kind, FILLED):
            self.lent.append((x, made))
        return made

    def _behind(self, x: Proxy) -> Any:
        """The value behind a proxy, also after its trace has ended."""
        if not is_proxy(x):
            return self._open(value_of(x))
        if (own := proxy.own_of(x)) is not None:
            return self._open(own)
        self.handles.append(x)
        return value_of(x)


def handles_in(x: Any) -> list[Proxy]:
    """The proxies in an argument structure."""
    return Opened((x,), {}).handles
