"""Neuron groups: CoB values that go together, and the neurons that share them.

A plan has one free value for each channel of a residual stream, say; channels that were made together and joined
by the same operations form one group, whose members are runs of channels of nodes and parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fxteleport.passes.capture import Captured
from fxteleport.passes.constrain import Constrained
from fxteleport.passes.solve import Solution

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Member:
    """A run of neurons: `node` is the node or parameter that made them, `role` what they are to it."""

    node: str
    path: str
    role: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Group:
    """Neurons that share CoB values.

    Attributes:
        id: number of the group, by size.
        kind: "free" (values of its own), "dependent" (monomials of other groups' values) or "pinned" (to 1).
        size: CoB values in the group; for a pinned group, neurons.
        members: the neurons.
        why: why it is pinned, or what it depends on.
    """

    id: int
    kind: str
    size: int
    members: tuple[Member, ...]
    why: str


def neuron_groups(captured: Captured, found: Constrained, solution: Solution) -> list[Group]:
    """The groups of a plan, largest first, pinned ones last."""
    vectors = found.system.vectors
    if not vectors:
        return []
    paths = {n.name: str(n.target if n.op == "call_module" else n.meta.get("path", "")) for n in captured.graph.nodes}
    starts = np.array([v.start for v in vectors])
    symbols = np.concatenate([np.arange(v.start, v.start + v.size) for v in vectors])
    vector = np.searchsorted(starts, symbols, side="right") - 1
    kind, key = _keys(solution, symbols)
    # Values that occur in the same set of vectors go together: tell sets apart by a sum of random numbers.
    random = np.random.default_rng(0).integers(1, 2**60, len(vectors))
    pairs = np.unique(np.stack([key, vector], 1), axis=0)
    value, inverse = np.unique(key, return_inverse=True)
    first = np.searchsorted(pairs[:, 0], value)
    signature = np.add.reduceat(random[pairs[:, 1]], first)[inverse]
    signature = np.where(kind == _DEPENDENT, signature ^ 1 << 62, signature)  # nor do free and dependent values
    signature = np.where(kind == _PINNED, -1 - solution.reason[symbols], signature)
    groups = []
    order = np.lexsort((symbols, signature))
    cuts = np.flatnonzero(np.diff(signature[order])) + 1
    for run in np.split(order, cuts):
        what = int(kind[run[0]])
        members = _members(symbols[run], vector[run], vectors, paths)
        size = len(run) if what == _PINNED else len(np.unique(key[run]))
        groups.append((what, size, members, _why(what, int(solution.reason[symbols[run[0]]]), solution)))
    groups.sort(key=lambda g: (g[0], -g[1], g[2][0].node if g[2] else ""))
    return [Group(i, _KINDS[w], size, members, why) for i, (w, size, members, why) in enumerate(groups)]


_FREE, _DEPENDENT, _PINNED = 0, 1, 2
_KINDS = ("free", "dependent", "pinned")


def _keys(solution: Solution, symbols: Array) -> tuple[Array, Array]:
    """For each symbol its kind, and a number that symbols with the same value (or its inverse) share."""
    count = len(solution.index)
    kind = np.full(count, _PINNED)
    key = np.full(count, -1, np.int64)
    plain = solution.index < solution.num_free
    kind[plain] = _FREE
    key[plain] = solution.index[plain]
    if len(solution.many):
        kind[solution.many] = _DEPENDENT
        random = np.append(np.random.default_rng(1).integers(1, 2**60, solution.num_free), 0)
        mixed = (random[solution.many_index] * solution.many_exponent).sum(1)
        key[solution.many] = solution.num_free + np.abs(mixed)
    return kind[symbols], key[symbols]


def _members(symbols: Array, vector: Array, vectors: Any, paths: dict[str, str]) -> tuple[Member, ...]:
    members = []
    for index in dict.fromkeys(vector.tolist()):
        made = vectors[index]
        own = np.sort(symbols[vector == index]) - made.start
        for piece in np.split(own, np.flatnonzero(np.diff(own) > 1) + 1):
            name = made.origin.node
            path = paths.get(name, name.rpartition(".")[0])
            members.append(Member(name, path, made.origin.why, int(piece[0]), int(piece[-1]) + 1))
    return tuple(members)


def _why(kind: int, reason: int, solution: Solution) -> str:
    if kind == _FREE:
        return ""
    if kind == _DEPENDENT:
        return "products of other groups' values"
    if reason < 0:
        return "pinned"
    origin = solution.origins[reason]
    return f"{origin.node}: {origin.why}" if origin.node else origin.why
