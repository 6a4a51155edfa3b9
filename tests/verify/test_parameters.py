"""Parameters of emitted networks are compared themselves, whatever the inputs reach; and what they reach is said."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

X = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))


class Unreached(nn.Module):
    """A hidden unit that is never above 0, a row of a table that no index reads, a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.table, self.b = nn.Linear(5, 6), nn.Embedding(9, 6), nn.Linear(6, 3)
        self.spare = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.table(torch.arange(len(x)) % 4)
        return self.b(self.norm(torch.relu(self.a(x)) + rows))


@pytest.fixture
def model() -> Unreached:
    made = ft.randomize(Unreached().eval())
    with torch.no_grad():
        made.a.bias[2] = -1e3
    return made


WRONG: dict[str, Callable[[nn.Module], None]] = {
    "a.weight": lambda net: net.get_parameter("a.weight")[2].mul_(2),
    "a.bias": lambda net: net.get_parameter("a.bias")[2].mul_(1.0 + 2**-10),
    "table.weight": lambda net: net.get_parameter("table.weight")[7].mul_(-1),
    "spare.weight": lambda net: net.get_parameter("spare.weight")[0, 0].add_(1),
    "norm.num_batches_tracked": lambda net: net.get_buffer("norm.num_batches_tracked").add_(1),
}


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_factor_where_no_input_comes(name: str, mode: str, exact: bool, model: Unreached) -> None:
    plan = ft.plan(model, X, mode=mode)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=exact, seed=0))
    report = ft.verify(model, network, X)
    assert report.passed and report.wrong_parameter is None
    assert report.parameters == len(list(model.parameters())) + len(list(model.buffers()))
    with torch.no_grad():
        WRONG[name](network)
    report = ft.verify(model, network, X)
    assert not report.passed and report.verdict == "different" and not report.bitwise_equal
    assert report.wrong_parameter is not None and report.wrong_parameter.name == name
    assert name in str(report.wrong_parameter) and report.max_rel <= max(report.tolerance, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_one_rounding_a_factor_is_allowed_and_no_more(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3)]
    model, x = ft.randomize(nn.Sequential(*layers).to(dtype).eval()), X.to(dtype)
    plan = ft.plan(model, x)
    for seed in range(5):
        network = plan.rewrite(plan.sample(0.9, "inter", seed=seed))
        assert ft.verify(model, network, x).wrong_parameter is None
    with torch.no_grad():
        network.get_parameter("2.weight")[3, 4] *= 1 + 4 * torch.finfo(dtype).eps
    wrong = ft.verify(model, network, x).wrong_parameter
    assert wrong is not None and (wrong.name, wrong.index, wrong.elements) == ("2.weight", (3, 4), 1)


def test_a_long_parameter_is_compared_in_runs() -> None:
    model = ft.randomize(nn.Sequential(nn.Linear(5, 1100), nn.ReLU(), nn.Linear(1100, 1100)).eval())
    plan = ft.plan(model, X)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    with torch.no_grad():
        network.get_parameter("2.weight")[1099, 1098] *= 3
    wrong = ft.verify(model, network, X).wrong_parameter
    assert wrong is not None and wrong.index == (1099, 1098)


def test_a_parameter_that_is_gone_or_of_another_type(model: Unreached) -> None:
    plan = ft.plan(model, X)
    network = plan.rewrite(plan.identity())
    network.spare.weight = nn.Parameter(network.spare.weight.detach().double())
    wrong = ft.verify(model, network, X).wrong_parameter
    assert wrong is not None and wrong.name == "spare.weight" and math.isnan(wrong.actual)
    del network.spare.bias
    assert not ft.verify(model, network, X).passed


def test_the_share_that_a_run_exercises(model: Unreached) -> None:
    """By hand: a dead unit (5 + 1), five rows of nine (30), what is never called (20)."""
    total = sum(p.numel() for p in model.parameters())
    report = ft.verify(model, ft.teleport(model, X, exact=True, seed=0), X)
    assert report.exercised == (total - 6 - 30 - 20) / total
    assert 0 < report.exercised < 1


def test_a_zero_layer_exercises_nothing_before_it() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        model[2].weight.zero_()
        model[0].bias.fill_(100)
    report = ft.verify(model, ft.teleport(model, X, exact=True, seed=0), X)
    assert report.exercised == (18 + 3) / (36 + 21)


def test_no_gradient_no_share() -> None:
    class Undifferentiable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(5, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x).argmax(1)

    report = ft.verify(Undifferentiable(), Undifferentiable(), X)
    assert report.exercised is None
