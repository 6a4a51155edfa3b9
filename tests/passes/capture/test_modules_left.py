"""Modules left: a forward that gives its modules other parts or hooks, which its next run finds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

pytestmark = pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
G = torch.Generator().manual_seed(0)
RUNS = [torch.randn(n, 4, generator=G) for n in (2, 2, 3, 2)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.p, self.q = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 8), nn.Linear(8, 8)
        self.parts: nn.Module = nn.Sequential(nn.ReLU())
        self.late: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(torch.relu(self.p(self.parts(self.a(x)))) + self.extra(x))
        self.leave()
        return out

    def extra(self, x: Tensor) -> Tensor | float:
        return 0.0 if self.late is None else self.late(self.a(x))

    def leave(self) -> None:
        """What the next run finds."""


class Replaces(Net):
    def leave(self) -> None:
        self.parts = nn.Tanh()


class Appends(Net):
    def leave(self) -> None:
        assert isinstance(self.parts, nn.Sequential)
        self.parts.append(nn.Tanh())


class Swaps(Net):
    def leave(self) -> None:
        self.p, self.q = self.q, self.p


class Late(Net):
    def leave(self) -> None:
        self.late = nn.Tanh()


class Early(Net):
    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Tanh()

    def leave(self) -> None:
        self.late = None


class Hooks(Net):
    def leave(self) -> None:
        self.a.register_forward_hook(lambda _, __, out: out * 2)


class Again(Net):
    """Each run makes the same part, before it is called."""

    def extra(self, x: Tensor) -> Tensor | float:
        self.late = nn.LeakyReLU()
        return super().extra(x)


class Once(Net):
    """The first run makes a part, and each run calls it."""

    def extra(self, x: Tensor) -> Tensor | float:
        if self.late is None:
            self.late = nn.LeakyReLU()
        return super().extra(x)


class Unhooks(Net):
    def leave(self) -> None:
        self.a.register_forward_hook(lambda _, __, out: out * 2).remove()


def planned(kind: type[Net], mode: str) -> tuple[nn.Module, ft.Plan]:
    torch.manual_seed(0)
    model = ft.randomize(kind().eval())
    return model, ft.plan(model, RUNS[0], mode=mode)


def same_runs(model: nn.Module, plan: ft.Plan) -> bool:
    network = plan.rewrite(plan.sample(exact=True, landscape="inter", seed=0))
    return all(torch.equal(network(x), model(x)) for x in RUNS)


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("kind", [Replaces, Appends, Swaps, Late, Early, Hooks])
def test_what_the_next_run_finds_is_not_taken_for_the_same(kind: type[Net], mode: str) -> None:
    model, plan = planned(kind, mode)
    assert plan.num_free == 0
    assert same_runs(model, plan)


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("kind", [Again, Once, Unhooks])
def test_what_each_run_makes_the_same_costs_nothing(kind: type[Net], mode: str) -> None:
    model, plan = planned(kind, mode)
    assert plan.num_free >= 8
    assert same_runs(model, plan)
