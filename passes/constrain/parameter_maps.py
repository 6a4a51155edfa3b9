"""The maps of parameters and buffers: each is decided by its first use; a journal can undo decisions."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.capture.inner_calls import is_below
from fxteleport.passes.constrain.dependence import Dependence
from fxteleport.passes.domain.cob_map import IDENTITY, ONE, CobMap
from fxteleport.passes.domain.constraints import Origin, System
from fxteleport.passes.rules.operand import Operand, carries


class ParameterMaps:
    """The maps of a model's parameters and buffers that are decided so far.

    Attributes:
        decided: canonical name -> map.

    Args:
        fixed: the names of those that keep their values.
    """

    def __init__(self, captured: Captured, dependence: Dependence, system: System, fixed: Iterable[str]) -> None:
        self.decided: dict[str, CobMap] = dict.fromkeys(fixed, IDENTITY)
        self._journal: list[str] = []
        self._captured, self._dependence, self._system = captured, dependence, system

    def __contains__(self, name: str) -> bool:
        return name in self._captured.metas

    def operand(self, name: str) -> Operand:
        """A parameter or buffer, by any of its names, as an operand."""
        name = self._captured.canonical[name]
        return Operand(self._captured.metas[name], self.decided.get(name), name, self)

    def under(self, path: str) -> list[Operand]:
        """All of a module, except those of modules in it that have graphs of their own (`Captured.inner`)."""
        inner = self._captured.inner
        names = (name for name in self._captured.metas if name.startswith(f"{path}."))
        return [self.operand(name) for name in names if not is_below(name, inner)]

    def is_bound(self, name: str | None) -> bool:
        return name in self.decided

    def bind(self, name: str | None, cob: CobMap) -> None:
        assert name is not None
        self.decided[name] = cob
        self._journal.append(name)

    def pin(self, operand: Operand, origin: Origin) -> None:
        """Require the CoB 1 of an operand, whether it is a parameter or not."""
        if operand.is_unbound:
            self.bind(operand.name, IDENTITY)
        else:
            self._system.pin(operand.map, origin)

    def own_map(self, name: str | None) -> CobMap:
        """The map of a parameter or buffer used freely: one fresh factor an axis, but for buffers that are constants.

        A product of factors repeats a common scale, so all but the last axis start at ONE.
        """
        assert name is not None
        if name not in self.decided:
            value = self._captured.metas[name]
            free = carries(value) and value.layout is torch.strided and name not in self.constants
            self.bind(name, self._fresh(name, value) if free else IDENTITY)
        return self.decided[name]

    def _fresh(self, name: str, value: Tensor) -> CobMap:
        axes = [i for i, n in enumerate(value.shape) if n > 1] or ([value.ndim - 1] if value.ndim else [])
        if not axes:
            return CobMap(((self._system.fresh((), Origin(name, "scalar")), 1),))
        factors = []
        for axis in axes:
            n = value.shape[axis]
            origin = Origin(name, f"axis {axis}")
            shape = [n if i == axis else 1 for i in range(value.ndim)]
            if axis == axes[-1]:
                symbols = self._system.fresh(shape, origin)
            else:
                rest = self._system.fresh((n - 1,), origin)
                symbols = torch.cat([rest.new_full((1,), ONE), rest]).view(shape)
            factors.append((symbols, 1))
        return CobMap(tuple(factors))

    @functools.cached_property
    def constants(self) -> frozenset[str]:
        """The buffers that have no free map."""
        tables = {name for name in self._dependence.used if _is_table(self._captured.metas.get(name))}
        named = self._captured.canonical
        return frozenset(named[name] for name in self._dependence.shaping | tables if name in named)

    def mark(self) -> int:
        return len(self._journal)

    def undo(self, mark: int) -> None:
        """Undo what was decided since a mark."""
        for name in self._journal[mark:]:
            self.decided.pop(name, None)
        del self._journal[mark:]


def _is_table(buffer: Tensor | None) -> bool:
    """True for a buffer with more than one axis."""
    return buffer is not None and sum(n > 1 for n in buffer.shape) > 1
