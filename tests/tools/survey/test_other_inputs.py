"""Other inputs: which there are, and how the three ways to them end."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.errors import TeleportError
from fxteleport.tools.survey.other_inputs import Other, asked, checkpoint, counts, emitted, outcome, run, shapes


class Sized(nn.Module):
    """A number that a size gives: another function on another batch."""

    def __init__(self, past: int) -> None:
        super().__init__()
        self.first, self.last, self.past = nn.Linear(4, 6), nn.Linear(6, 3), past

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > self.past:
            raise ValueError("too many")
        return self.last(self.first(x))  # type: ignore[no-any-return]


class Raises(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


def test_each_axis_has_another_size() -> None:
    assert list(shapes((3, 64, 96), lambda s: True)) == [(3, 32, 96), (3, 64, 48)]
    assert list(shapes((3, 64, 96), lambda s: s[1:] in [(65, 96), (64, 128)])) == [(3, 65, 96), (3, 64, 128)]
    assert list(shapes((3, 64, 96), lambda s: False)) == []


def test_three_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = ft.randomize(Sized(5)).eval(), torch.randn(2, 4)
    others = asked(model, [("3x4", (torch.randn(3, 4),)), ("9x4", (torch.randn(9, 4),))], "cpu", 0)
    assert [o.shape for o in others] == ["3x4"]  # it does not take the other
    plan = ft.plan(model, x, mode="weights")
    cob = plan.sample(exact=True, seed=0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert emitted(plan, plan.rewrite(cob), others, "cpu", 0) == ["weights 3x4 exact"]
    assert checkpoint(plan, cob, others, "cpu", 0) == ["checkpoint 3x4 exact"]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    wrong = [Other("3x4", others[0].inputs, [others[0].expected[0] + 1])]
    assert checkpoint(plan, cob, wrong, "cpu", 0) == ["checkpoint 3x4 differs"]
    branch = ft.Condition("branch", "", "", "", "a size")
    monkeypatch.setattr(type(plan), "conditions", (branch,))
    assert checkpoint(plan, cob, wrong, "cpu", 0) == [f"checkpoint 3x4 refused: it rests on {branch}"]


def test_refusals_are_told_apart() -> None:
    other = Other("2x4", (torch.randn(2, 4),), [])
    assert outcome(Raises(TeleportError("no; never")), other, "cpu", 0) == "refused: no, never"
    assert outcome(Raises(RuntimeError("shapes")), other, "cpu", 0) == "refused: RuntimeError: shapes"
    assert len(run(nn.Linear(4, 2), other.inputs, "cpu", 0)) == 1


def test_counts() -> None:
    old, new = (
        "2x3x8x8 refused: no",
        "full 2x3x8x8 exact; weights 2x3x8x8 refused: no, never; checkpoint 2x3x8x8 differs",
    )
    assert counts([old, new]) == {
        "full": Counter(refused=1, exact=1), "weights": Counter(refused=1), "checkpoint": Counter(differs=1)
    }  # fmt: skip
