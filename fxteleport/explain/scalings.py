"""Uses: which neuron groups scale a tensor, along which of its axes, over which channels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fxteleport.explain.groups import Array, Grouping
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.domain.solution import Solution

_RUNS = 32  # with more runs along an axis, each group is given by its first and last channel


@dataclass(frozen=True, slots=True)
class Use:
    """A run of channels of a tensor that a group's values multiply.

    Attributes:
        group: its number.
        axes: the axes along which its values vary; none where one value scales the tensor.
        start, stop: the channels, along that axis (along several: along them flattened).
        exponent: 1 where the tensor is multiplied by the CoB of these neurons, -1 where it is divided...
    """

    group: int
    axes: tuple[int, ...]
    start: int
    stop: int
    exponent: int


def group_uses(cob: CobMap | None, grouping: Grouping, solution: Solution) -> list[Use]:
    """The uses in one map, factor by factor; the constant 1 and structural zeros have none."""
    return [] if cob is None else list(_uses(cob, grouping, solution))


def _uses(cob: CobMap, grouping: Grouping, solution: Solution) -> Iterator[Use]:
    together: dict[tuple[tuple[int, ...], bytes], tuple[Array, int]] = {}
    for factor, exponent in cob.factors:  # factors of the same values are one, with the sum of their exponents
        symbols, value, axes = _by_value(factor.numpy(), grouping, solution)
        key = (axes, value.tobytes())
        together[key] = (symbols, exponent + together.get(key, (symbols, 0))[1])
    for (axes, _), (symbols, exponent) in together.items():
        if not exponent:
            continue
        group = grouping.of[symbols]
        power = exponent * solution.exponent[symbols]
        cuts = np.flatnonzero((np.diff(group) != 0) | (np.diff(power) != 0)) + 1
        bounds = [0, *cuts.tolist(), len(symbols)]
        if len(bounds) > _RUNS:
            yield from _spread(group, power, axes)
            continue
        for start, stop in itertools.pairwise(bounds):
            if stop > start and group[start] >= 0:
                yield Use(int(group[start]), axes, start, stop, int(power[start]))


def _by_value(symbols: Array, grouping: Grouping, solution: Solution) -> tuple[Array, Array, tuple[int, ...]]:
    """The symbols and the values of a factor, flattened over the axes along which its values vary, and those axes."""
    value = grouping.value[symbols] * solution.exponent[symbols] * 2 + (solution.exponent[symbols] < 0)
    value = np.where(grouping.value[symbols] < 0, -2 - 2 * symbols, value)  # pinned symbols count as different
    for axis, n in enumerate(symbols.shape):
        if n > 1 and (value == value.take([0], axis)).all():
            symbols, value = symbols.take([0], axis), value.take([0], axis)
    return symbols.reshape(-1), value, tuple(i for i, n in enumerate(symbols.shape) if n > 1)


def _spread(group: Array, power: Array, axes: tuple[int, ...]) -> Iterator[Use]:
    """One use a group and exponent, from its first to its last channel."""
    key = group * 1024 + power + 512
    distinct, first = np.unique(key, return_index=True)
    last = len(key) - 1 - np.unique(key[::-1], return_index=True)[1]
    for number, start, stop in zip(distinct.tolist(), first.tolist(), last.tolist(), strict=True):
        if number >= 0:
            yield Use(number // 1024, axes, start, stop + 1, number % 1024 - 512)
