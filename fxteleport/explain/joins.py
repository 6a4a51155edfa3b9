"""Links: why the members of a neuron group share their values.

Every batch of equations remembers the node that asked for it (`Origin`), so nothing has to be recorded while
planning: the equations that hold two runs of neurons of one group together are looked up afterwards, all groups at
once, and a spanning forest of them (the earliest ones, the plainest first) is the explanation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fxteleport.explain.groups import Array, Grouping
from fxteleport.passes.domain.constraints import Batch, System

TOGETHER = "several equations make them equal together"


@dataclass(frozen=True, slots=True)
class Link:
    """Two members of a group (by their positions in it) and what joined them.

    Attributes:
        node: the graph's node that asked for it; "" where it takes several equations.
        why: in words.
    """

    a: int
    b: int
    node: str
    why: str


@dataclass(frozen=True, slots=True)
class Tie:
    """Several groups in one equation, which makes one of them a product of the others; and what asked for it."""

    groups: tuple[int, ...]
    node: str
    why: str


def group_ties(system: System, grouping: Grouping) -> list[Tie]:
    """The equations between values of different groups, in the order of the graph."""
    found: dict[Tie, None] = {}
    moving = np.array([g.kind != "pinned" for g in grouping.groups] + [False])  # the last is that of no group
    mix = np.random.default_rng(0).integers(-(2**62), 2**62, 64)
    for batch in system.equations:
        if len(batch.exponents) < 3:  # two symbols are equal: of one group
            continue
        rows = grouping.of[batch.symbols.numpy()]
        rows = np.sort(np.where(moving[rows], rows, -1), 1)
        distinct = np.unique(rows @ mix[: rows.shape[1]], return_index=True)[1]  # rows told apart by a hash
        for row in rows[np.sort(distinct)].tolist():
            groups = tuple(sorted(set(row) - {-1}))
            if len(groups) > 1:
                found[Tie(groups, batch.origin.node, batch.origin.why)] = None
    return list(found)


def group_links(system: System, grouping: Grouping) -> list[list[Link]]:
    """The links of every group.

    They connect all members that share values. Runs of one tensor that share none were only made together, and those
    of a pinned group were perhaps never joined, but pinned by the same operation.
    """
    sizes = [len(g.members) for g in grouping.groups]
    start = np.cumsum([0, *sizes])  # the members of all groups, numbered through
    parent = np.arange(start[-1])

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    links: list[list[Link]] = [[] for _ in sizes]
    for group, a, b, number in _candidates(system, grouping, start):
        low, high = sorted((root(a), root(b)))
        if low != high:
            parent[high] = low
            origin = system.equations[number].origin
            links[group].append(Link(int(a - start[group]), int(b - start[group]), origin.node, origin.why))
    for group, one, other in _sharing(grouping, start, [len(found) for found in links]):
        low, high = sorted((root(one), root(other)))
        if low != high:
            parent[high] = low
            links[group].append(Link(int(one - start[group]), int(other - start[group]), "", TOGETHER))
    return links


def _sharing(grouping: Grouping, start: Array, found: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(group, member, member) that have a value in common, in groups that are not connected yet."""
    for group in grouping.groups:
        if group.kind == "pinned" or found[group.id] == len(group.members) - 1:
            continue
        own = np.flatnonzero(grouping.of == group.id)
        pairs = np.unique(np.stack([grouping.value[own], start[group.id] + grouping.member[own]], 1), axis=0)
        same = np.flatnonzero(pairs[1:, 0] == pairs[:-1, 0])
        edges = np.unique(np.stack([pairs[same, 1], pairs[same + 1, 1]], 1), axis=0)
        for one, other in edges.tolist():
            yield group.id, one, other


def _candidates(system: System, grouping: Grouping, start: Array) -> Iterator[tuple[int, int, int, int]]:
    """(group, member, member, batch) of every pair that an equation joins: two symbols first, then longer ones."""
    total = int(start[-1])
    found: list[Array] = []
    for number, batch in enumerate(system.equations):
        for longer, a, b in _pairs(batch, grouping):
            one, other = start[grouping.of[a]] + grouping.member[a], start[grouping.of[b]] + grouping.member[b]
            pair = np.unique(np.minimum(one, other) * total + np.maximum(one, other))
            found.append(np.stack([np.full(len(pair), longer), np.full(len(pair), number), pair], 1))
    if found:
        for _, number, pair in np.unique(np.concatenate(found), axis=0).tolist():
            one, other = divmod(pair, total)
            if one != other:
                yield int(np.searchsorted(start, one, side="right")) - 1, one, other, number


def _pairs(batch: Batch, grouping: Grouping) -> Iterator[tuple[bool, Array, Array]]:
    """Symbols of one group that a batch's equations hold together, column by column."""
    symbols = batch.symbols.numpy()
    longer = symbols.shape[1] > 2
    for i in range(symbols.shape[1]):
        for j in range(i):
            a, b = symbols[:, j], symbols[:, i]
            equal = (grouping.of[a] == grouping.of[b]) & (grouping.of[a] >= 0)
            equal &= grouping.value[a] == grouping.value[b]
            if longer:
                equal &= grouping.value[a] >= 0  # a pinned symbol says nothing about another
            if equal.any():
                yield longer, a[equal], b[equal]
