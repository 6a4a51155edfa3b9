"""What a model looks at in its first run, and notes: classifiers note what kind of labels they are given."""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft

pytestmark = pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")


@dataclasses.dataclass
class Config:
    kind: str | None = None


class Net(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = self if config is None else config
        self.kind: str | None = None
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        out = self.b(torch.relu(self.a(x)))
        return out if labels is None else (self.loss(out, labels), out)

    def loss(self, out: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError


class NotesTheKind(Net):
    def loss(self, out: Tensor, labels: Tensor) -> Tensor:
        if out.dim() != 2:
            raise ValueError("one row a sample")
        if self.config.kind is None:
            self.config.kind = "one" if labels.dtype == torch.long else "several"
        if self.config.kind == "one":
            return F.cross_entropy(out, labels)
        return F.binary_cross_entropy_with_logits(out, labels)


class AsksLater(Net):
    """The second run asks what the first one does not, and goes the same way on the example."""

    def loss(self, out: Tensor, labels: Tensor) -> Tensor:
        if self.config.kind is None:
            self.config.kind = "seen"
        elif labels.shape[0] > 3:
            out = out * 2
        return F.cross_entropy(out, labels)


class ComputesLater(Net):
    def loss(self, out: Tensor, labels: Tensor) -> Tensor:
        scale = 1 if self.config.kind is None else 2
        self.config.kind = "seen"
        return F.cross_entropy(out * scale, labels)


CONFIGS = [Config, lambda: SimpleNamespace(kind=None)]
X, LABELS = torch.randn(3, 4), torch.tensor([0, 1, 2])


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("config", CONFIGS)
def test_what_only_the_first_run_asks_is_a_guard(config: Any, mode: Any) -> None:
    torch.manual_seed(0)
    model = ft.randomize(NotesTheKind(config())).eval()
    plan = ft.plan(model, X, LABELS, mode=mode)
    assert plan.num_free == 8
    assert model.config.kind is None  # planning leaves the model as it is
    emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert ft.verify(copy.deepcopy(model), emitted, X, LABELS).passed
    for _ in range(2):
        assert all(map(torch.equal, model(X, LABELS), emitted(X, LABELS)))
    with pytest.raises(ft.GuardError):
        emitted(X, torch.rand(3, 3))


@pytest.mark.parametrize("kind", [AsksLater, ComputesLater])
@pytest.mark.parametrize("config", CONFIGS)
def test_what_a_later_run_asks_or_computes_is_not_lost(kind: type[Net], config: Any) -> None:
    torch.manual_seed(0)
    model = ft.randomize(kind(config())).eval()
    plan = ft.plan(model, X, LABELS)
    emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    more = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    for given in ((X, LABELS), (X, LABELS), more, more):
        expected = model(*given)
        try:
            found = emitted(*given)
        except ft.GuardError:
            continue
        assert all(map(torch.equal, expected, found))


@dataclasses.dataclass
class Guarded:
    """A configuration that refuses to tell one of its fields, as one does whose layers differ in it."""

    width: int = 8
    heads: int = 2

    def __getattribute__(self, name: str) -> Any:
        if name == "heads":
            raise RuntimeError("ask the layers")
        return super().__getattribute__(name)


def test_a_configuration_that_refuses_to_tell_a_field() -> None:
    model = ft.randomize(NotesTheKind(Config())).eval()
    model.other = Guarded()
    plan = ft.plan(model, X)
    assert plan.num_free == 8
    assert ft.verify(model, plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0)), X).passed
