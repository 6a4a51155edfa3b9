"""Links: they hold together exactly the members that share values, and name the operation that joined them."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.explain.joins import TOGETHER
from fxteleport.passes.solve.solve import solve
from fxteleport.plan.plan import Plan

WIDTH = 4


class Net(nn.Module):
    """Streams of WIDTH channels, and operations between two of them, given as (name, i, j)."""

    def __init__(self, steps: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.steps = steps
        self.stems = nn.ModuleList(nn.Linear(3, WIDTH) for _ in range(3))
        self.shared = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in steps)
        self.heads = nn.ModuleList(nn.Linear(2 * WIDTH if s[0] == "cat" else WIDTH, 2) for s in [*steps, *"..."])

    def forward(self, x: Tensor) -> Tensor:
        streams = [stem(x) for stem in self.stems]
        for (name, i, j), layer in zip(self.steps, self.layers, strict=True):
            a, b = (s[:, :WIDTH] for s in (streams[i % len(streams)], streams[j % len(streams)]))
            made = {
                "add": lambda a, b: a + b,
                "mul": lambda a, b: a * b,
                "cat": lambda a, b: torch.cat([a, b], 1),
                "relu": lambda a, b: F.relu(a),
                "linear": lambda a, b, layer=layer: layer(a),  # type: ignore[misc]
                "shared": lambda a, b: self.shared(a),
            }[name](a, b)
            streams.append(made)
        order = [*streams[3:], *streams[:3]]
        return torch.stack([head(s) for head, s in zip(self.heads, order, strict=True)]).sum(0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "mul", "cat", "relu", "linear", "shared"]), st.integers(0, 9), st.integers(0, 9)),
    max_size=6,
)


def components(n: int, edges: list[tuple[int, int]]) -> list[int]:
    """The smallest member that each member is connected to."""
    label = list(range(n))
    for _ in range(n):
        for a, b in edges:
            label[a] = label[b] = min(label[a], label[b])
    return label


def sharing(plan: Plan, group: int) -> list[tuple[int, int]]:
    """Pairs of members that have a value in common."""
    grouping = plan.grouping
    own = np.flatnonzero(grouping.of == group)
    held: dict[int, set[int]] = {}
    for member, value in zip(grouping.member[own].tolist(), grouping.value[own].tolist(), strict=True):
        held.setdefault(member, set()).add(value)
    return [(a, b) for a, b in itertools.combinations(sorted(held), 2) if held[a] & held[b]]


@settings(max_examples=15)
@given(STEPS)
def test_links_connect_the_members_that_share_values(steps: list[tuple[str, int, int]]) -> None:
    plan = ft.plan(Net(steps), torch.zeros(2, 3))
    nodes = {n.name for n in plan.captured.graph.nodes}
    for group, links in zip(plan.groups, plan.links, strict=True):
        edges = [(link.a, link.b) for link in links]
        found = components(len(group.members), edges)
        assert len(edges) == len(group.members) - len(set(found))  # a forest: none is superfluous
        assert all(link.node in nodes or (link.node, link.why) == ("", TOGETHER) for link in links)
        if group.kind != "pinned":
            assert found == components(len(group.members), sharing(plan, group.id))


@settings(max_examples=15)
@given(STEPS.map(lambda steps: [s for s in steps if s[0] not in ("mul", "shared")]))
def test_the_linking_operations_alone_make_members_equal(steps: list[tuple[str, int, int]]) -> None:
    plan = ft.plan(Net(steps), torch.zeros(2, 3))
    system = plan.constrained.system
    for group, links in zip(plan.groups, plan.links, strict=True):
        if group.kind != "free" or any(link.why == TOGETHER for link in links):
            continue
        reasons = {(link.node, link.why) for link in links}
        kept = [b for b in system.equations if (b.origin.node, b.origin.why) in reasons]
        alone = solve(dataclasses.replace(system, equations=kept))
        own = np.flatnonzero(plan.grouping.of == group.id)
        values = {(v, int(alone.index[s])) for v, s in zip(plan.grouping.value[own].tolist(), own, strict=True)}
        assert len(values) == len({v for v, _ in values})  # equal in the plan, equal by these equations


@settings(max_examples=10)
@given(STEPS)
def test_dependent_groups_are_tied(steps: list[tuple[str, int, int]]) -> None:
    plan = ft.plan(Net(steps), torch.zeros(2, 3))
    tied = {g for tie in plan.ties for g in tie.groups}
    nodes = {n.name for n in plan.captured.graph.nodes}
    assert all(tie.node in nodes and len(tie.groups) > 1 for tie in plan.ties)
    assert {g.id for g in plan.groups if g.kind == "dependent"} <= tied


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.twice = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(3, 5)
        self.head, self.other = nn.Linear(4, 2), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        total = self.a(x) + self.c(torch.relu(self.b(x)))
        pair = torch.cat([self.twice(x), self.twice(x + 1)], 1)
        return self.head(total) + self.other(pair)


@pytest.mark.parametrize(
    ("members", "node", "why"),
    [({"a", "c"}, "add", "they are added"), ({"twice", "twice_1"}, "twice_1", "'twice.weight' has one scale")],
)
def test_links_name_the_operation(members: set[str], node: str, why: str) -> None:
    plan = ft.plan(Joined(), torch.zeros(2, 3))
    found = [g for g in plan.groups if {m.node for m in g.members} == members]
    assert len(found) == 1
    (link,) = plan.links[found[0].id]
    assert link.node == node and why in link.why


def test_a_product_names_its_groups() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.h, self.of_b = (nn.Linear(4, 4) for _ in range(5))

        def forward(self, x: Tensor) -> Tensor:
            b = self.b(x)
            return self.h(self.a(x) + b * self.c(x)) + self.of_b(b)

    plan = ft.plan(Gated(), torch.zeros(2, 4))
    (dependent,) = [g for g in plan.groups if g.kind == "dependent"]
    (tie,) = [t for t in plan.ties if dependent.id in t.groups]
    assert tie.node.startswith("add") and tie.why == "they are added"
    assert all(f"#{g}" in dependent.why for g in tie.groups if g != dependent.id)
