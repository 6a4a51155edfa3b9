"""Losses of detectors: targets are matched to predictions outside torch, by modules that the function makes itself."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

pytestmark = pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")


@dataclasses.dataclass
class Config:
    classes: int = 3
    weights: dict[str, float] = dataclasses.field(default_factory=lambda: {"class": 1.0, "box": 5.0})


@dataclasses.dataclass
class Output:
    loss: Tensor
    parts: dict[str, Tensor]
    logits: Tensor


class Matcher(nn.Module):
    def forward(self, logits: Tensor, targets: list[dict[str, Tensor]]) -> list[int]:
        cost = torch.cat([-logits.softmax(-1)[0][:, t["labels"]] for t in targets], 1)
        return [int(i) for i in np.asarray(cost).argmin(0)]


class Criterion(nn.Module):
    def __init__(self, matcher: nn.Module, config: Any) -> None:
        super().__init__()
        self.matcher, self.config = matcher, config

    def forward(self, logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        at = self.matcher(logits, targets)
        labels = torch.cat([t["labels"] for t in targets])
        found = {"class": nn.functional.cross_entropy(logits[0, at], labels)}
        return found | {"box": (boxes[0, at] - torch.cat([t["boxes"] for t in targets])).abs().mean()}


def loss_of(logits: Tensor, boxes: Tensor, targets: Any, config: Any, **rest: Any) -> tuple[Tensor, dict[str, Tensor]]:
    parts = Criterion(Matcher(), config)(logits, boxes, targets)
    return sum((x * config.weights[name] for name, x in parts.items()), torch.zeros(())), parts


class Detector(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.body = config, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU())
        self.classes, self.boxes = nn.Linear(6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor, targets: Any = None) -> Output:
        h = self.body(x)
        logits = self.classes(h)
        loss, parts = loss_of(logits, self.boxes(h), targets, config=self.config)
        return Output(loss, parts, logits)


def targets(*labels: int) -> list[dict[str, Tensor]]:
    return [{"labels": torch.tensor(labels), "boxes": torch.rand(len(labels), 4)}]


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize(
    "config", [Config(), SimpleNamespace(**vars(Config())), SimpleNamespace(weights={"class": 2.0, "box": 1.0})]
)
def test_the_loss_is_kept_whole_and_the_model_is_free(config: Any, mode: Any) -> None:
    torch.manual_seed(0)
    model = ft.randomize(Detector(config)).eval()
    x = torch.randn(1, 5, 4)
    plan = ft.plan(model, x, targets(0, 2), mode=mode)
    assert plan.num_free == 14
    assert [o.node for o in plan.opaque] == ["function_loss_of"]
    emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert ft.verify(model, emitted, x, targets(0, 2)).passed
    with torch.no_grad():
        for given in (targets(0, 2), targets(1, 1)):
            y = torch.randn(1, 7, 4)
            expected, found = model(y, given), emitted(y, given)
            assert torch.equal(expected.loss, found.loss)
            assert all(torch.equal(v, found.parts[k]) for k, v in expected.parts.items())


@dataclasses.dataclass(slots=True)
class Slotted:
    weights: dict[str, float] = dataclasses.field(default_factory=lambda: {"class": 1.0, "box": 5.0})


def test_an_object_with_slots_is_no_setting() -> None:
    model = ft.randomize(Detector(Slotted())).eval()
    x = torch.randn(1, 5, 4)
    plan = ft.plan(model, x, targets(0, 2))
    emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert ft.verify(model, emitted, x, targets(0, 2)).passed


class Counter:
    def __init__(self) -> None:
        self.calls = 0


def counted(x: Tensor, counter: Counter) -> Tensor:
    counter.calls += 1
    return x * counter.calls if float(x.sum()) > 0 else x - counter.calls


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.counter, self.a, self.b = Counter(), nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return counted(self.b(torch.relu(self.a(x))), self.counter)


def test_an_object_that_the_function_changes_is_no_setting() -> None:
    torch.manual_seed(0)
    model = ft.randomize(Counting()).eval()
    x = torch.randn(3, 4)
    plan = ft.plan(model, x)
    assert model.counter.calls == 0
    emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for given in (x, -x, x):
        assert torch.equal(model(given), emitted(given))
