"""Structures: nodes, maps and operands in tuples, lists and dictionaries, as operations take and give them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, fx

from fxteleport.passes.domain.cob_map import IDENTITY, CobMap
from fxteleport.passes.graph.structure import PLAIN
from fxteleport.passes.rules.operand import Operand

T = TypeVar("T")


def of_nodes(x: Any, known: Callable[[fx.Node], Any]) -> Any:
    """The arguments of a node with other nodes replaced by what `known` gives for them."""
    kind = type(x)
    if kind is fx.Node:
        return known(x)
    if kind in PLAIN:
        return x
    if kind is slice:
        return slice(of_nodes(x.start, known), of_nodes(x.stop, known), of_nodes(x.step, known))
    if issubclass(kind, dict):
        return {k: of_nodes(v, known) for k, v in x.items()} if x else {}
    if issubclass(kind, tuple):
        return tuple([v if type(v) in PLAIN else of_nodes(v, known) for v in x])
    return [of_nodes(v, known) for v in x] if issubclass(kind, list) else x


def maps_of(x: Any) -> Any:
    """The maps of a structure of operands."""
    if isinstance(x, Operand):
        return x.map
    if isinstance(x, dict):
        return {k: maps_of(v) for k, v in x.items()}
    return [maps_of(v) for v in x] if isinstance(x, (tuple, list)) else None


def map_like(value: Any) -> Any:
    """The identity map in the structure of a value."""
    if isinstance(value, Tensor):
        return IDENTITY
    if isinstance(value, dict):
        return {k: map_like(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [map_like(v) for v in value]
    return None


def part_of(held: Any, cobs: Any, key: Any, value: Any) -> Any:
    """The map of one part of a structure: an item, a field of a named tuple, an item by number of a dictionary."""
    if isinstance(key, str) and isinstance(held, tuple):
        key = next((i for i, item in enumerate(held) if item is value), None)
    if isinstance(held, dict) and key not in held:
        key = next((k for k, item in held.items() if item is value), None)
    known = key in cobs if isinstance(cobs, dict) else isinstance(cobs, (list, tuple)) and isinstance(key, int)
    return cobs[key] if known else map_like(value)


def _leaves(x: Any, kind: type[T]) -> list[T]:
    """The objects of a class in an argument structure."""
    if type(x) is kind:
        return [x]
    if type(x) in PLAIN:
        return []
    if isinstance(x, dict):
        x = x.values()
    elif not isinstance(x, (tuple, list)):
        return []
    leaves: list[T] = []
    for item in x:
        if type(item) is kind:
            leaves.append(item)
        elif type(item) not in PLAIN:
            leaves += _leaves(item, kind)
    return leaves


operands_in = functools.partial(_leaves, kind=Operand)
maps_in = functools.partial(_leaves, kind=CobMap)


def pairs_of(value: Any, cobs: Any) -> list[tuple[Any, CobMap]]:
    """The parts of a result with their maps."""
    if isinstance(cobs, CobMap):
        return [(value, cobs)]
    if isinstance(cobs, dict):
        return [pair for key in cobs for pair in pairs_of(value[key], cobs[key])]
    if isinstance(cobs, (list, tuple)):
        return [pair for v, cob in zip(value, cobs, strict=False) for pair in pairs_of(v, cob)]
    return []
