"""Links: why the members of a neuron group share their values.

Every batch of equations has the node that it comes from (`Origin`), so nothing has to be recorded while planning. The
equations that join two runs of neurons of one group are looked up afterwards, for all groups at once. A spanning forest
of them (short equations first, then early ones) is the explanation.
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
    """Two members of a group (by their positions in it) and the operation that joins them.

    Attributes:
        node: the node that the equation comes from; "" where several equations together join them.
        why: in words.
    """

    a: int
    b: int
    node: str
    why: str


@dataclass(frozen=True, slots=True)
class Tie:
    """Several groups in one equation, which makes one of them a product of the others, with the equation's origin."""

    groups: tuple[int, ...]
    node: str
    why: str


def group_ties(system: System, grouping: Grouping) -> list[Tie]:
    """The equations between values of different groups, in the order of the graph."""
    ties: dict[Tie, None] = {}
    moving = np.array([g.kind != "pinned" for g in grouping.groups] + [False])  # the last entry stands for no group
    mix = np.random.default_rng(0).integers(-(2**62), 2**62, 64)
    for batch in system.equations:
        if len(batch.exponents) < 3:  # two equal symbols are in one group
            continue
        rows = grouping.of[batch.symbols.numpy()]
        rows = np.sort(np.where(moving[rows], rows, -1), 1)
        distinct = np.unique(rows @ mix[: rows.shape[1]], return_index=True)[1]  # rows told apart by a hash
        for row in rows[np.sort(distinct)].tolist():
            groups = tuple(sorted(set(row) - {-1}))
            if len(groups) > 1:
                ties[Tie(groups, batch.origin.node, batch.origin.why)] = None
    return list(ties)


def group_links(system: System, grouping: Grouping) -> list[list[Link]]:
    """The links of every group.

    They connect all members that share values. Members without a common value may stay unconnected: runs of one tensor,
    or neurons that the same operation pins.
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
    for group, one, other in _sharing(grouping, start, [len(own) for own in links]):
        low, high = sorted((root(one), root(other)))
        if low != high:
            parent[high] = low
            links[group].append(Link(int(one - start[group]), int(other - start[group]), "", TOGETHER))
    return links


def _sharing(grouping: Grouping, start: Array, counts: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(group, member, member) that have a value in common, in groups that are not connected yet."""
    for group in grouping.groups:
        if group.kind == "pinned" or counts[group.id] == len(group.members) - 1:
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
    edges: list[Array] = []
    for number, batch in enumerate(system.equations):
        for longer, a, b in _pairs(batch, grouping):
            one, other = start[grouping.of[a]] + grouping.member[a], start[grouping.of[b]] + grouping.member[b]
            pair = np.unique(np.minimum(one, other) * total + np.maximum(one, other))
            edges.append(np.stack([np.full(len(pair), longer), np.full(len(pair), number), pair], 1))
    if edges:
        for _, number, pair in np.unique(np.concatenate(edges), axis=0).tolist():
            one, other = divmod(pair, total)
            if one != other:
                yield int(np.searchsorted(start, one, side="right")) - 1, one, other, number


def _pairs(batch: Batch, grouping: Grouping) -> Iterator[tuple[bool, Array, Array]]:
    """Pairs of symbols of one group in a batch's equations, column by column."""
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
