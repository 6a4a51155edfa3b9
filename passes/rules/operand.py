"""Operands: the tensors that a call takes, with their maps, and numbers that are unknown before the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from fxteleport.passes.domain.cob_map import CobMap, Parts
from fxteleport.passes.domain.constraints import Origin, System
from fxteleport.passes.domain.size import Extent, Size
from fxteleport.passes.rules.uses import Uses


class Parameters(Protocol):
    """The model's parameters and buffers, with the maps that are decided so far."""

    def __contains__(self, name: str) -> bool:
        """True if the model has one of this name."""

    def operand(self, name: str) -> Operand:
        """One as an operand."""

    def is_bound(self, name: str | None) -> bool:
        """True where its map is decided."""

    def own_map(self, name: str | None) -> CobMap:
        """A new map for one that has none: a product of one factor an axis."""

    def bind(self, name: str | None, cob: CobMap) -> None:
        """Decide its map."""


def carries(x: Any) -> bool:
    """True for a tensor that has a CoB: integer and boolean tensors have none, nor have floats of a byte or less.

    torch does not multiply such floats, and a multiple soon leaves their range.
    """
    return isinstance(x, Tensor) and x.itemsize > 1 and (x.is_floating_point() or x.is_complex())


@dataclass(frozen=True, slots=True, eq=False)
class Unknown:
    """A number that other inputs change: a size, or a result of the run.

    Attributes:
        value: its value for the example inputs, from which nothing may be concluded.
        size: its value for any inputs.
    """

    value: int | float
    size: Size


class Operand:
    """A tensor argument of a call: its meta (or real integer) value and its map.

    While a rule is applied, each use of an operand is noted (`use`), for the rule's contract.
    """

    __slots__ = ("_map", "_table", "_uses", "name", "sizes", "value")

    def __init__(
        self,
        value: Tensor,
        cob: CobMap | None,
        name: str | None = None,
        table: Parameters | None = None,
        sizes: tuple[Extent, ...] | None = None,
    ) -> None:
        self.value, self._map, self.name, self._table = value, cob, name, table
        self.sizes: tuple[Extent, ...] = tuple(value.shape) if sizes is None else sizes
        self._uses: Uses | None = None

    @property
    def map(self) -> CobMap:
        """The map; a parameter that has none yet gets one of its own, a product of one factor an axis.

        Reading it counts as a use of the operand.
        """
        if self._uses is not None:
            self._uses.note(self)
        return self._own_map() if self._map is None else self._map

    @property
    def moves(self) -> bool:
        """True where it may carry a CoB. Reading this does not count as a use."""
        return self.is_unbound or bool((self._own_map() if self._map is None else self._map).factors)

    def use(self) -> None:
        """Note that the rule has considered the operand: it reads the map, decides it, or needs the shape alone."""
        if self._uses is not None:
            self._uses.note(self)

    def note_uses(self, uses: Uses) -> None:
        """Note uses in this record from here on."""
        self._uses = uses

    def _own_map(self) -> CobMap:
        assert self._table is not None
        self._map = self._table.own_map(self.name)
        return self._map

    @property
    def folds(self) -> tuple[tuple[int, Parts], ...]:
        """Axes of unknown size along which the map varies, with their parts."""
        return () if self._map is None else self._map.folds

    def unfold(self, system: System, axis: int, origin: Origin) -> None:
        """Require one CoB for all positions of a fold."""
        assert self._map is not None
        rest = tuple((i, parts) for i, parts in self._map.folds if i != axis)
        self._map = replace(system.constant(self._map, [axis], origin), folds=rest)

    @property
    def is_unbound(self) -> bool:
        """True for a parameter whose map is not decided yet."""
        return self._table is not None and not self._table.is_bound(self.name)

    @property
    def shape(self) -> torch.Size:
        return self.value.shape

    @property
    def rank(self) -> int:
        return self.value.ndim


def is_dense(x: Any) -> bool:
    """False for a sparse tensor (or operand): it cannot be multiplied by every factor, so it cannot be wrapped."""
    value = x.value if type(x) is Operand else x
    return not isinstance(value, Tensor) or value.layout is torch.strided
