"""Objects that a `forward` returns around its tensors, such as the cache of a language model.

Each is taken apart, and made anew each time the network runs. Nowhere else can a graph hold one: whoever got it might
change it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxteleport.passes.graph.containers import mapped_table
from fxteleport.passes.graph.structure import SHARED


@dataclass(frozen=True, slots=True)
class _Hole:
    """The place of a value that each run has anew."""

    number: int


@dataclass(frozen=True, slots=True)
class _Made:
    """An object of a class, with these attributes."""

    kind: type
    fields: dict[str, Any]
    table: Any = None  # of a dictionary: a copy, with holes in it


class Assemble(nn.Module):
    """Makes an object anew, with the values of this run in it."""

    def __init__(self, template: Any, name: str) -> None:
        super().__init__()
        self._template, self.made = template, name

    def forward(self, *values: Any) -> Any:
        return _filled(self._template, values)

    def __deepcopy__(self, memo: dict[int, Any]) -> Assemble:
        return self  # it never changes, and what it shares with the model (a configuration) is the model's


def take_apart(x: Any, is_hole: Callable[[Any], bool]) -> tuple[Assemble, list[Any]]:
    """How to make an object anew, and the values that it is made from.

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
        if kind in (list, tuple):
            return kind(map(visit, x))
        if kind is dict:
            return {k: visit(v) for k, v in x.items()}
        if isinstance(x, dict):
            return _Made(kind, {}, mapped_table(x, visit))
        if hasattr(x, "__dict__") and not isinstance(x, SHARED):
            fields = {k: visit(v) for k, v in vars(x).items()}
            return _Made(kind, fields) if len(values) > before else x
        return x

    return Assemble(visit(x), type(x).__name__), values


def _filled(x: Any, values: tuple[Any, ...]) -> Any:
    kind = type(x)
    if kind is _Hole:
        return values[x.number]
    if kind is _Made and x.table is not None:
        return mapped_table(x.table, lambda v: _filled(v, values))
    if kind is _Made:
        made = object.__new__(x.kind)
        made.__dict__.update({k: _filled(v, values) for k, v in x.fields.items()})
        return made
    if kind in (list, tuple):
        return kind(_filled(v, values) for v in x)
    return {k: _filled(v, values) for k, v in x.items()} if kind is dict else x
