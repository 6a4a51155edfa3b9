"""`inspect --pinned`: the reasons add up, and the other settings are what they would give."""

from __future__ import annotations

import pytest
import timm
import torch

import fxteleport as ft
from fxteleport.tools.inspection.pinned import one_sided, other_settings, reasons
from fxteleport.tools.inspection.plan_view import Reading
from fxteleport.tools.models.load import Loaded


@pytest.fixture(scope="module", params=["full", "weights"])
def case(request: pytest.FixtureRequest) -> tuple[ft.Plan, Loaded]:
    model = timm.create_model("test_resnet").eval()
    x = torch.zeros(2, 3, 32, 32)
    return ft.plan(model, x, mode=request.param), Loaded("test_resnet", model, (x,), {}, "")


def test_reasons_add_up_and_the_largest_is_first(case: tuple[ft.Plan, Loaded]) -> None:
    plan, _ = case
    found = reasons(Reading(plan))
    assert sum(r.neurons for r in found) == sum(g.size for g in plan.groups if g.kind == "pinned")
    assert [r.neurons for r in found] == sorted((r.neurons for r in found), reverse=True)
    assert len({r.why for r in found}) == len(found)
    nodes = {n.name for n in plan.captured.graph.nodes}
    for reason in found:
        sizes = [size for _, _, size in reason.nodes]
        assert sum(sizes) == reason.neurons and sizes == sorted(sizes, reverse=True)
        assert all(node in nodes for node, _, _ in reason.nodes)


def test_other_settings_are_those_that_free_more(case: tuple[ft.Plan, Loaded]) -> None:
    plan, loaded = case
    first, *more = other_settings(plan, loaded)
    assert (first.mode, first.norm_stats, first.num_free) == (plan.mode, plan.norm_stats, plan.num_free)
    assert more
    for other in more:
        fresh = ft.plan(loaded.model, *loaded.args, mode=other.mode, norm_stats=other.norm_stats)
        assert other.num_free == fresh.num_free > plan.num_free and other.moved == fresh.moved


def test_one_sided_values_are_counted(case: tuple[ft.Plan, Loaded]) -> None:
    plan, _ = case
    found = one_sided(plan)
    assert sum(n for n, _ in found.values()) == int((plan.solution.allows != 0).sum())
    assert all(why for _, why in found.values())
    if plan.mode == "weights":
        assert found["positive"][0] == sum(g.size for g in plan.groups if g.allows == "positive")
