"""The proxies of one trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.proxy import NumberProxy, Proxy, SettledProxy
from fxteleport.passes.graph.node_info import info


class Handles:
    """Makes proxies, has them follow writes in place, and settles numbers when the trace is over.

    Args:
        make: makes the proxy of a node with a value.
    """

    def __init__(self, make: Callable[[fx.Node, Any], Proxy]) -> None:
        self._make = make
        self._numbers: list[Proxy] = []
        self._moves: list[tuple[Proxy, fx.Node]] = []  # proxies that follow a write, with the node before it

    def make(self, node: fx.Node, value: Any) -> Proxy:
        """The proxy of a node."""
        made = self._make(node, value)
        if issubclass(type(made), NumberProxy):
            self._numbers.append(made)
        return made

    def move(self, handle: Proxy, node: fx.Node) -> None:
        """Have a proxy stand for the node that has written to its tensor."""
        self._moves.append((handle, proxy.node_of(handle)))
        proxy.rebind(handle, node, proxy.value_of(handle))

    def __len__(self) -> int:
        """The number of moves."""
        return len(self._moves)

    def undo(self, mark: int) -> None:
        """Undo the moves after the first `mark`."""
        while len(self._moves) > mark:
            handle, node = self._moves.pop()
            proxy.rebind(handle, node, info(node).value)

    def settle(self) -> None:
        """End the trace: proxies of numbers that Python still holds behave as plain numbers from here on."""
        for number in self._numbers:
            number.__class__ = SettledProxy  # type: ignore[assignment]
        self._numbers.clear()
