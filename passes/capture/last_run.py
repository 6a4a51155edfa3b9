"""Values that a run leaves for the next one, and what stands for them in the trace of that next run.

A traced tensor or a number may have any value in a later run, so the next trace knows nothing of it but its form
(`from_last_run`). A value that is computed from sizes and weights alone is the same in each run: when the two traces
are compared, it equals the expression that the first trace computed.
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
    """Stands for a traced value. It has slots, since objects with a `__dict__` are walked as containers.

    Attributes:
        value: a tensor of the same shape and type, or the number.
        node: the node that computes it, if each run computes the same; otherwise None.
    """

    __slots__ = ("node", "value")

    def __init__(self, value: Any, node: fx.Node | None) -> None:
        self.value, self.node = value, node


def is_remade(x: Any) -> bool:
    """True for a structure with a value that each run computes alike."""
    return any(isinstance(leaf, StandIn) and leaf.node is not None for leaf in leaves_in(x))


def stand_in(x: Any, is_remade: Callable[[Any], bool]) -> Any:
    """A value that a run has left, with the trace's proxies replaced by `StandIn`s."""

    def plain(leaf: Any) -> Any:
        if proxy.is_proxy(leaf):
            value = proxy.plain(leaf)
            value = torch.zeros(value.shape, dtype=value.dtype) if isinstance(value, Tensor) else value
            return StandIn(value, node_of(leaf) if is_remade(leaf) else None)
        return _with_fields(leaf, lambda held: stand_in(held, is_remade))

    made = tree_map(plain, x)
    if isinstance(made, dict) and proxy.find_trace(list(made)) is not None:  # sizes are plain numbers as keys
        refill(made, {proxy.plain(key): value for key, value in items_of(made).items()})
    return made


def found(x: Any, record: Callable[..., Any]) -> tuple[Any, dict[fx.Node, fx.Node]]:
    """The value that a trace starts with in the place of one that the run before has left.

    Args:
        x: the result of `stand_in`.
        record: records a call in the new trace.

    Returns:
        The value, and its nodes -> the nodes of the earlier trace that compute the same.
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
    """A tensor or a number that the run before has left: a tensor without values. It is in no graph of a plan."""
    return value.to(META) if isinstance(value, Tensor) else value


def _with_fields(x: Any, made: Callable[[Any], Any]) -> Any:
    """A copy of an object with its fields mapped; anything that is no such object, unchanged."""
    if not (holds_fields(type(x)) and (held := contents_of(x))):
        return x
    other = copy.copy(x)
    put_back(other, {key: made(value) for key, value in held.items()})
    return other
