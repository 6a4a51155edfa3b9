"""Objects that a `forward` returns around its tensors, such as the cache of a language model.

Each is taken apart into a template and values, and each run of the network builds a new one. A graph holds no such
object itself: the caller of one run might change it for the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxteleport.passes.graph.containers import (
    NAMED_TUPLE,
    QUEUE,
    RECORD,
    SEQUENCE,
    SLICE,
    TABLE,
    kind_of,
    mapped,
    mapped_table,
)  # fmt: skip
from fxteleport.passes.graph.reachable import fields_of
from fxteleport.passes.graph.structure import SHARED, new_object


@dataclass(frozen=True, slots=True)
class _Hole:
    """Stands in a template for a value that each run computes."""

    number: int


@dataclass(frozen=True, slots=True)
class _Instance:
    """A template of an object: its class, and templates of its attributes."""

    kind: type
    fields: dict[str, Any]
    table: Any = None  # for a dictionary: a copy, with holes in it


class Assemble(nn.Module):
    """Builds a new object from a template and the values of this run."""

    def __init__(self, template: Any, name: str) -> None:
        super().__init__()
        self._template, self.made = template, name

    def forward(self, *values: Any) -> Any:
        return _filled(self._template, values)

    def __deepcopy__(self, memo: dict[int, Any]) -> Assemble:
        return self  # it never changes, and what it shares with the model (a configuration) is the model's


def take_apart(x: Any, is_hole: Callable[[Any], bool]) -> tuple[Assemble, list[Any]]:
    """The module that rebuilds an object, and the values that it is rebuilt from.

    Raises:
        RuntimeError: it holds a tensor without values.
        RecursionError: it holds itself.
    """
    values: list[Any] = []

    def visit(x: Any) -> Any:
        if is_hole(x):
            values.append(x)
            return _Hole(len(values) - 1)
        if isinstance(x, Tensor) and x.is_meta:
            raise RuntimeError("an object that it returns holds a tensor computed outside the trace")
        kind, before = type(x), len(values)
        container = kind_of(kind)
        if container is TABLE and kind is not dict:
            return _Instance(kind, {}, mapped_table(x, visit))
        if container is not None and container is not RECORD:
            return mapped(x, visit)
        if isinstance(x, SHARED):
            return x
        fields = {name: visit(getattr(x, name)) for name in fields_of(x)}
        return _Instance(kind, fields) if len(values) > before else x

    return Assemble(visit(x), type(x).__name__), values


def _filled(x: Any, values: tuple[Any, ...]) -> Any:
    kind = type(x)
    if kind is _Hole:
        return values[x.number]
    if kind is not _Instance:
        return mapped(x, lambda part: _filled(part, values)) if kind_of(kind) in _REBUILT else x
    if x.table is not None:
        return mapped_table(x.table, lambda part: _filled(part, values))
    instance = new_object(x.kind)
    for name, part in x.fields.items():
        object.__setattr__(instance, name, _filled(part, values))
    return instance


_REBUILT = (NAMED_TUPLE, SEQUENCE, QUEUE, TABLE, SLICE)
