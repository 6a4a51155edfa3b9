"""Places: where a value is in a structure, as code spells it: `.layers[0].keys`, `['a'][1]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from fxteleport.passes.graph.containers import kind_of, parts, spelled
from fxteleport.passes.graph.structure import is_object, own_fields, with_fields


def place_of(holder: Any, key: Any) -> str:
    """Where a container or an object holds something."""
    return f".{key}" if kind_of(type(holder)) is None else spelled(holder, key)


def tensors_at(x: Any, wanted: Callable[[Tensor], bool], place: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a structure that are `wanted`, each with its place."""
    if isinstance(x, Tensor):
        if wanted(x):
            yield place, x
        return
    for key, held in parts(x) if kind_of(type(x)) is not None else own_fields(x).items() if is_object(x) else ():
        yield from tensors_at(held, wanted, place + place_of(x, key))


def with_tensors(x: Any, made: Callable[[str, Tensor], Tensor], place: str = "") -> Any:
    """A structure like this one with other tensors, made of each and its place."""
    if isinstance(x, Tensor):
        return made(place, x)
    kind = kind_of(type(x))
    if kind is not None:
        return kind.like(x, [with_tensors(held, made, place + place_of(x, key)) for key, held in parts(x)])
    if is_object(x):
        own = own_fields(x)
        fields = {k: with_tensors(v, made, f"{place}.{k}") if k in own else v for k, v in vars(x).items()}
        return with_fields(x, fields)
    return x
