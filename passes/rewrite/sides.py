"""Sides: the factors before and after each operation that may be wrapped, for any CoB of a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxteleport.passes.domain.cob_map import CobMap, compress
from fxteleport.passes.domain.solution import POSITIVE, UNIT, Array, Solution
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.rules.call import Wrap
from fxteleport.passes.rules.common_factor import CommonFactor


@dataclass(frozen=True, slots=True)
class Side:
    """What the input of an operation is divided by, or its output multiplied by.

    Attributes:
        cob: the map, with size 1 along every axis along which no CoB of the plan varies.
        shape: the value's shape, without leading axes of size 1: a run may have fewer axes (a squeezed batch of one).
        part: "all", "sign" or "magnitude", as in `Wrap`.
        dtype: the value's number type.
    """

    cob: CobMap
    shape: torch.Size
    part: str
    dtype: torch.dtype

    def precise(self, tau: Tensor) -> Tensor:
        """The value in the type of `tau`, broadcastable to the tensor that it scales."""
        value = self.cob.scale(tau)
        assert value is not None
        return torch.sign(value) if self.part == "sign" else value.abs() if self.part == "magnitude" else value

    def value(self, tau: Tensor) -> Tensor:
        """The value in the tensor's number type, in memory of its own."""
        value = self.precise(tau)
        for axis, size in enumerate((1,) * (value.ndim - len(self.shape)) + tuple(self.shape)):
            value = value.narrow(axis, 0, size)
        return value.reshape(self.shape).to(self.dtype, copy=True)


@dataclass(frozen=True, slots=True)
class Sides:
    """The two sides of a node's operation, of which argument `position` is the input; None is structurally 1.

    `region` names the node before a region that it ends, and the nodes in it; `common` is that of a `Wrap`.
    """

    before: Side | None
    after: Side | None
    position: int
    region: tuple[str, frozenset[str]] | None = None
    common: CommonFactor | None = None

    def factor(self, tau: Tensor) -> float | None:
        """The positive number that the norm's input is multiplied by, if the norm's epsilon can take it; else None.

        It must be near enough to 1 that its square times an epsilon stays in any format's range.
        """
        if self.common is None or self.before is None:
            return None
        value = self.before.precise(tau).reshape(-1)
        factor = float(value[0])
        if not _LEAST <= factor <= 1 / _LEAST or not bool((value == factor).all()):
            return None
        return None if self.common.casts and math.frexp(factor)[0] != 0.5 else factor


_LEAST = 2.0**-24


def settle(wraps: Mapping[fx.Node, Wrap], solution: Solution) -> dict[str, Sides]:
    """The sides of each wrapped node, by name, given which symbols the solution makes equal."""
    counted = {"all": None, "sign": solution.allows != POSITIVE, "magnitude": solution.allows != UNIT}
    keys: dict[str, Array] = {}
    settled = {}
    for node, wrap in wraps.items():
        if wrap.part not in keys:
            keys[wrap.part] = solution.keys(counted[wrap.part])
        dtype = info(wrap.source(node)).value.dtype.to_real()
        before = _side(wrap.before, keys[wrap.part], wrap.part, dtype)
        after = before if wrap.before is wrap.after else _side(wrap.after, keys[wrap.part], wrap.part, dtype)
        region = None
        if wrap.region is not None:
            region = wrap.region[0].name, frozenset(inside.name for inside in wrap.region[1])
        settled[node.name] = Sides(before, after, wrap.position, region, wrap.common)
    return settled


def _side(cob: CobMap | None, keys: Array, part: str, dtype: torch.dtype) -> Side | None:
    if cob is None or not cob.factors:
        return None
    factors = []
    key: Tensor | None = None  # of the product
    for symbols, exponent in cob.factors:
        own = torch.as_tensor(keys[symbols.numpy()]) * exponent
        small = compress(own)
        for axis, (n, m) in enumerate(zip(own.shape, small.shape, strict=True)):
            symbols = symbols.narrow(axis, 0, m) if m < n else symbols
        factors.append((compress(symbols), exponent))
        key = small if key is None else key + small
    assert key is not None
    if not bool(key.any()):
        return None
    shape = compress(key).shape
    while shape and shape[0] == 1:
        shape = shape[1:]
    return Side(CobMap(tuple(factors)), shape, part, dtype)
