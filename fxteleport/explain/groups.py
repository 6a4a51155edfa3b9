"""Neuron groups: sets of CoB values, with the neurons that share them.

A plan has one free value for each channel of a residual stream, say. Channels of one tensor that the same operations
join form one group, whose members are runs of channels of nodes and parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.constrain.constrain import Constrained
from fxteleport.passes.domain.solution import FREE, POSITIVE, UNIT, Solution
from fxteleport.passes.graph.node_info import info

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Member:
    """A run of neurons: `node` is the node or parameter that they belong to, `role` what they are there."""

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
        why: why it is pinned, or of which groups it is the product.
        allows: which values it may have: "any" number but 0, "positive" ones, or a "sign" only ("mixed": several).
    """

    id: int
    kind: str
    size: int
    members: tuple[Member, ...]
    why: str
    allows: str = "any"


@dataclass(frozen=True, eq=False)
class Grouping:
    """The groups of a plan, and the group of each symbol.

    Attributes:
        groups: largest first, pinned ones last; a group's id is its position.
        of: int64 [symbols]: the group of a symbol; -1 for the constants ONE and ANY.
        member: int64 [symbols]: the position of its run among the group's members, or -1.
        value: int64 [symbols]: a number that symbols with one value (or its inverse) share; -1 where it is pinned.
    """

    groups: list[Group]
    of: Array
    member: Array
    value: Array


def neuron_groups(captured: Captured, constrained: Constrained, solution: Solution) -> Grouping:
    """The groups of a plan, largest first, pinned ones last."""
    vectors = constrained.system.vectors
    of, member, values = (np.full(constrained.system.count, -1, np.int64) for _ in range(3))
    if not vectors:
        return Grouping([], of, member, values)
    paths = {n.name: str(n.target if n.op == "call_module" else info(n).path) for g in captured.graphs for n in g.nodes}
    starts = np.array([v.start for v in vectors])
    symbols = np.concatenate([np.arange(v.start, v.start + v.size) for v in vectors])
    vector = np.searchsorted(starts, symbols, side="right") - 1
    kind, key = _keys(solution, symbols)
    # Values that occur in the same set of vectors form a group; a sum of random numbers identifies a set.
    random = np.random.default_rng(0).integers(1, 2**60, len(vectors))
    pairs = np.unique(np.stack([key, vector], 1), axis=0)
    value, inverse = np.unique(key, return_inverse=True)
    first = np.searchsorted(pairs[:, 0], value)
    signature = np.add.reduceat(random[pairs[:, 1]], first)[inverse]
    signature = np.where(kind == _DEPENDENT, signature ^ 1 << 62, signature)  # free and dependent ones are apart
    signature = np.where(kind == _PINNED, -1 - solution.reason[symbols], signature)
    groups = []
    order = np.lexsort((symbols, signature))
    cuts = np.flatnonzero(np.diff(signature[order])) + 1
    for run in np.split(order, cuts):
        what = int(kind[run[0]])
        members = _members(symbols[run], vector[run], vectors, paths, member)
        size = len(run) if what == _PINNED else len(np.unique(key[run]))
        groups.append((what, size, members, symbols[run]))
    groups.sort(key=lambda g: (g[0], -g[1], g[2][0].node if g[2] else ""))
    values[symbols] = key
    for i, (*_, own) in enumerate(groups):
        of[own] = i
    home = _home(solution, of)
    listed = [
        Group(i, _KINDS[what], size, members, _why(what, own, solution, home), _allows(own, solution))
        for i, (what, size, members, own) in enumerate(groups)
    ]
    return Grouping(listed, of, member, values)


def group_of_symbols(captured: Captured, constrained: Constrained, solution: Solution) -> Array:
    """`Grouping.of` alone (of a plan: `plan.grouping.of`)."""
    return neuron_groups(captured, constrained, solution).of


_FREE, _DEPENDENT, _PINNED = 0, 1, 2
_KINDS = ("free", "dependent", "pinned")
_ALLOWS = {FREE: "any", POSITIVE: "positive", UNIT: "sign"}


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


def _members(symbols: Array, vector: Array, vectors: Any, paths: dict[str, str], member: Array) -> tuple[Member, ...]:
    """The runs of one group; writes each symbol's run into `member`."""
    members: list[Member] = []
    for index in dict.fromkeys(vector.tolist()):
        run = vectors[index]
        own = np.sort(symbols[vector == index]) - run.start
        for piece in np.split(own, np.flatnonzero(np.diff(own) > 1) + 1):
            name = run.origin.node
            path = paths.get(name, name.rpartition(".")[0])
            member[piece + run.start] = len(members)
            members.append(Member(name, path, run.origin.why, int(piece[0]), int(piece[-1]) + 1))
    return tuple(members)


def _home(solution: Solution, of: Array) -> Array:
    """The group of each free value, int64 [num_free + 1]; the last entry stands for no value."""
    home = np.full(solution.num_free + 1, -1)
    plain = solution.index < solution.num_free
    home[solution.index[plain]] = of[plain]
    return home


def _why(kind: int, own: Array, solution: Solution, home: Array) -> str:
    if kind == _FREE:
        return ""
    if kind == _DEPENDENT:
        return _product(own, solution, home)
    reason = int(solution.reason[own[0]])
    if reason < 0:
        return "pinned"
    origin = solution.origins[reason]
    return f"{origin.node}: {origin.why}" if origin.node else origin.why


def _product(own: Array, solution: Solution, home: Array) -> str:
    """A dependent group as a product: "#3 * #5 / #8" if all its values are that, else the groups that it depends on."""
    rows = np.isin(solution.many, own)
    groups, exponents = home[solution.many_index[rows]], solution.many_exponent[rows]
    held = np.unique(groups[groups >= 0]).tolist()
    order = np.argsort(groups, 1, kind="stable")
    groups, exponents = np.take_along_axis(groups, order, 1), np.take_along_axis(exponents, order, 1)
    if len(groups) and (groups == groups[0]).all() and (exponents == exponents[0]).all():
        terms = [(g, e) for g, e in zip(groups[0].tolist(), exponents[0].tolist(), strict=True) if g >= 0]
        if len(terms) <= 4:
            return monomial(terms)
    named = ", ".join(f"#{g}" for g in held[:4])
    return f"products of values of {named}" + (f" and {len(held) - 4} more groups" if len(held) > 4 else "")


def monomial(terms: Sequence[tuple[int, int]]) -> str:
    """(group, exponent) pairs in words: `#3 * #5 / #8^2`."""
    power = [(f"#{g}" + (f"^{abs(e)}" if abs(e) > 1 else ""), e) for g, e in terms]
    above = " * ".join(p for p, e in power if e > 0)
    return " / ".join([above or "1", *(p for p, e in power if e < 0)])


def _allows(own: Array, solution: Solution) -> str:
    """Which values the free values of a group may have."""
    index = solution.index[own]
    allowed = np.unique(solution.allows[index[index < solution.num_free]])
    return _ALLOWS[int(allowed[0])] if len(allowed) == 1 else "mixed" if len(allowed) else "any"
