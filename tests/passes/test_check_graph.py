"""The contract of a graph after each pass: what holds it, and that a breach is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxteleport as ft
from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.check_graph import CONTRACT, check_graph
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.graph.node_info import update

X = torch.randn(2, 3)


class Net(nn.Module):
    """Two layers, a functional activation, and another graph in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.spare = nn.Linear(3, 5), nn.Linear(5, 2), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.a(x))
        if self.training:
            x = x * 2 + x
        F.dropout(x, 0.5, self.training)  # whose result nothing uses: it draws random numbers in train mode
        return self.b(x)


def planned() -> ft.Plan:
    return ft.plan(Net().eval(), X, checks=True)


def call(captured: Captured) -> fx.Node:
    return next(n for n in captured.graph.nodes if n.op == "call_function" and n.target is F.gelu)


def test_every_stage_of_a_plan_holds_it() -> None:
    plan = planned()
    assert plan.captured.training is not None
    network = plan.rewrite(plan.sample(0.9, "inter", seed=0))
    check_graph(plan.captured, "capture")
    check_graph(plan.captured, "constrain", plan.constrained)
    check_graph(plan.captured, "rewrite", network=network)


def leave_dead(captured: Captured) -> Captured:
    with captured.graph.inserting_after(call(captured)):
        dead = captured.graph.call_function(torch.relu, (call(captured),))
    update(dead, path="")
    return captured


def leave_undescribed(captured: Captured) -> Captured:
    call(captured).meta.clear()
    return captured


def call_no_module(captured: Captured) -> Captured:
    next(n for n in captured.graph.nodes if n.op == "call_module").target = "nowhere"
    return captured


def name_twice(captured: Captured) -> Captured:
    assert captured.training is not None
    next(iter(captured.training.nodes)).name = next(iter(captured.graph.nodes)).name
    return captured


def name_by_another(captured: Captured) -> Captured:
    return dataclasses.replace(captured, canonical=captured.canonical | {"a.weight": "b.weight", "b.weight": "a.bias"})


@pytest.mark.parametrize(
    ("breach", "said"),
    [
        (leave_dead, "nothing uses.*relu"),
        (leave_undescribed, "record of its facts.*gelu"),
        (call_no_module, "called module"),
        (name_twice, "No node of train mode"),
        (name_by_another, "first name.*b.weight"),
    ],
)
def test_a_breach_of_capture_is_named(breach: Callable[[Captured], Captured], said: str) -> None:
    with pytest.raises(ft.GraphError, match=f"(?s)after capture.*{said}"):
        check_graph(breach(planned().captured), "capture")


def test_a_breach_of_constrain_is_named() -> None:
    plan = planned()
    for maps, said in (({}, "has a map"), (dict.fromkeys(plan.constrained.maps, wrong()), "has a map")):
        constrained: Any = dataclasses.replace(plan.constrained, maps=maps)
        with pytest.raises(ft.GraphError, match=f"after constrain.*{said}"):
            check_graph(plan.captured, "constrain", constrained)


def wrong() -> CobMap:
    return CobMap(((torch.zeros(7, 7, 7, dtype=torch.long), 1),), False)


def test_a_breach_of_rewrite_is_named() -> None:
    plan = planned()
    network = plan.rewrite(plan.identity())
    network.a.weight = nn.Parameter(torch.zeros(7, 7))
    with pytest.raises(ft.GraphError, match=r"after rewrite.*names and shapes.*a\.weight"):
        check_graph(plan.captured, "rewrite", network=network)


def test_every_statement_says_what_must_be_true() -> None:
    for statements in CONTRACT.values():
        assert all(statement.__doc__ for statement in statements)


def test_an_unknown_stage() -> None:
    with pytest.raises(ValueError, match="capture, constrain, rewrite"):
        check_graph(planned().captured, "solve")


def test_a_plan_checks_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(captured: Captured) -> Any:
        """Nothing is right."""
        yield "all of it"

    monkeypatch.setitem(CONTRACT, "capture", (never,))
    ft.plan(Net().eval(), X, checks=False)
    with pytest.raises(ft.GraphError, match=r"Nothing is right\. Broken by: all of it"):
        ft.plan(Net().eval(), X, checks=True)
    monkeypatch.setitem(CONTRACT, "capture", ())
    monkeypatch.setitem(CONTRACT, "rewrite", (lambda captured, network: never(captured),))
    plan = ft.plan(Net().eval(), X, checks=True)
    with pytest.raises(ft.GraphError, match="after rewrite"):
        plan.rewrite(plan.identity())
