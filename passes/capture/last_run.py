"""What a run leaves for the next one, and what the trace of that next run finds in its place.

A tensor of the trace, or a number, may be any other in the run after that: nothing is known of the value that the next
run finds (`from_last_run`). What each run makes the same, of sizes and weights alone, is what the first trace has made,
where the two are compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.meta_values import META, tree_map
from fxteleport.passes.capture.proxy import node_of
from fxteleport.passes.graph.containers import items_of, refill
from fxteleport.passes.graph.holders import contents_of, holds_fields, leaves_in, put_back


class StandIn:
    """What stands for a value of a trace. No data class, nor an object with a dictionary: those are walked into.

    Attributes:
        value: of its form.
        node: that has made it, where each run makes the same.
    """

    __slots__ = ("node", "value")

    def __init__(self, value: Any, node: fx.Node | None) -> None:
        self.value, self.node = value, node


def is_remade(x: Any) -> bool:
    """True for what holds a value that each run makes the same."""
    return any(isinstance(leaf, StandIn) and leaf.node is not None for leaf in leaves_in(x))


def stand_in(x: Any, is_remade: Callable[[Any], bool]) -> Any:
    """A value that a run has left, with a `StandIn` in the place of the trace's proxies."""

    def plain(leaf: Any) -> Any:
        if proxy.is_proxy(leaf):
            value = proxy.plain(leaf)
            value = torch.zeros(value.shape, dtype=value.dtype) if isinstance(value, Tensor) else value
            return StandIn(value, node_of(leaf) if is_remade(leaf) else None)
        return _with_fields(leaf, lambda held: stand_in(held, is_remade))

    made = tree_map(plain, x)
    if isinstance(made, dict) and proxy.find_trace(list(made)) is not None:  # sizes, which are numbers as keys
        refill(made, {proxy.plain(key): value for key, value in items_of(made).items()})
    return made


def found(x: Any, record: Callable[..., Any]) -> tuple[Any, dict[fx.Node, fx.Node]]:
    """What a trace finds where the run before has left a value.

    Args:
        x: as `stand_in` gives it.
        record: records a call in that trace.

    Returns:
        That, and node -> the node of the trace before that made the same.
    """
    remade: dict[fx.Node, fx.Node] = {}

    def handle(leaf: Any) -> Any:
        if isinstance(leaf, StandIn):
            made = record("call_function", from_last_run, (leaf.value,), {})
            if leaf.node is not None:
                remade[node_of(made)] = leaf.node
            return made
        return _with_fields(leaf, lambda held: tree_map(handle, held))

    if type(x) in (int, float):
        return record("call_function", from_last_run, (x,), {}), remade
    return tree_map(handle, x), remade


def from_last_run(value: Any) -> Any:
    """A tensor or a number that the run before has left. What depends on it is no part of a graph that is kept."""
    return value.to(META) if isinstance(value, Tensor) else value


def _with_fields(x: Any, made: Callable[[Any], Any]) -> Any:
    """An object with other things in its fields; anything else as it is."""
    if not (holds_fields(type(x)) and (held := contents_of(x))):
        return x
    other = copy.copy(x)
    put_back(other, {key: made(value) for key, value in held.items()})
    return other
