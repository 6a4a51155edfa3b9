"""How much of a model moves: the share of its parameter elements whose factor is not structurally 1.

Every symbol has a random 64-bit key that is additive over its monomial: a product of symbols is structurally 1 if and
only if its keys sum to 0 (but for a chance of 2**-64).
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from fxteleport.passes.domain.solution import Array
from fxteleport.plan.analysis import Analysis


def moved(plan: Analysis) -> float:
    """The share of parameter elements whose factor is not structurally 1."""
    sizes = {plan.captured.canonical[n]: p.numel() for n, p in plan.captured.model.named_parameters()}
    total = sum(sizes.values())
    return sum(moved_elements(plan, n) for n in sizes) / total if total else 0.0


def moved_elements(plan: Analysis, name: str) -> int:
    """How many elements of a parameter have a factor that is not structurally 1."""
    cob_map = plan.tensor_map(name)
    numel = plan.captured.metas[name].numel()
    if cob_map is None or not cob_map.factors or not numel:
        return 0
    keys: dict[torch.Size, Array] = {}
    for symbols, exponent in cob_map.factors:
        keys[symbols.shape] = keys.get(symbols.shape, 0) + plan.symbol_keys[symbols.numpy()] * exponent
    ones, total = _zero_sums(list(keys.values()))
    return (total - ones) * (numel // total) if total else 0


def _zero_sums(keys: list[Array]) -> tuple[int, int]:
    """The number of zeros in the broadcast sum of some integer arrays, and its number of elements.

    Where the largest array varies along axes of its own (a row beside a column, or one number for each expert), the
    sum, which has the size of a weight, is not computed: equal values are counted instead.
    """
    shape = np.broadcast_shapes(*(k.shape for k in keys))
    *rest, largest = sorted(keys, key=lambda k: k.size)
    small = functools.reduce(np.add, rest) if rest else None
    if small is not None and all(1 in pair for pair in zip(small.shape, largest.shape, strict=True)):
        values, times = np.unique(small, return_counts=True)
        others, other_times = np.unique(-largest, return_counts=True)
        _, at, other_at = np.intersect1d(values, others, assume_unique=True, return_indices=True)
        return int((times[at] * other_times[other_at]).sum()), math.prod(shape)
    return int((functools.reduce(np.add, keys) == 0).sum()), math.prod(shape)
