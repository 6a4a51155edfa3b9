"""What a run leaves for the next one, and what the trace of that next run finds in its place.

A tensor or a number that the next run finds may be any other in the run after that, so it is a value that nothing is
known of (`from_last_run`). What each run makes the same, of sizes and weights alone, is `Remade`: where two traces are
compared, it is what the first has made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.meta_values import META, tree_map
from fxteleport.passes.capture.proxy import node_of
from fxteleport.passes.graph.holders import contents_of, holds_fields, leaves_in, put_back

T = TypeVar("T")


class Remade:
    """A value that each run makes the same. No data class, nor an object with a dictionary: those are walked into.

    Attributes:
        node: of the trace that has left it.
        value: of its form.
    """

    __slots__ = ("node", "value")

    def __init__(self, node: fx.Node, value: Any) -> None:
        self.node, self.value = node, value


def is_remade(x: Any) -> bool:
    """True for what holds a value that each run makes the same."""
    return any(isinstance(leaf, Remade) for leaf in leaves_in(x))


def stand_in(x: Any, is_remade: Callable[[Any], bool]) -> Any:
    """A value that a run has left, with tensors of their form, and `Remade`, in the place of the trace's proxies."""

    def plain(leaf: Any) -> Any:
        if proxy.is_proxy(leaf):
            value = proxy.plain(leaf)
            value = torch.zeros(value.shape, dtype=value.dtype) if isinstance(value, Tensor) else value
            return Remade(node_of(leaf), value) if is_remade(leaf) else value
        return _with_fields(leaf, lambda held: stand_in(held, is_remade))

    return tree_map(plain, x)


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
        if isinstance(leaf, Remade):
            made = record("call_function", from_last_run, (leaf.value,), {})
            remade[node_of(made)] = leaf.node
            return made
        if isinstance(leaf, Tensor):
            return record("call_function", from_last_run, (leaf,), {})
        return _with_fields(leaf, lambda held: tree_map(handle, held))

    if type(x) in (int, float):
        return record("call_function", from_last_run, (x,), {}), remade
    return tree_map(handle, x), remade


def from_last_run(value: T) -> T:
    """A tensor or a number that the run before has left. What depends on it is no part of a graph that is kept."""
    return value.to(META) if isinstance(value, Tensor) else value


def _with_fields(x: Any, made: Callable[[Any], Any]) -> Any:
    """An object with other things in its fields; anything else as it is."""
    if not (holds_fields(type(x)) and (held := contents_of(x))):
        return x
    other = copy.copy(x)
    put_back(other, {key: made(value) for key, value in held.items()})
    return other
