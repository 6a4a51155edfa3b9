"""A point is the emitted network, without emitting it: function, gradients, controls, optimised CoBs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport import controls, objectives
from fxteleport.plan.teleported_point import gradients

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1)).double()
Y = torch.randint(0, 3, (16,), generator=torch.Generator().manual_seed(2))


def loss(net) -> Tensor:
    return F.cross_entropy(net(X), Y)


def network() -> nn.Module:
    return ft.randomize(
        nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)
        ).double()
    )


@pytest.fixture
def model() -> nn.Module:
    return network()


@pytest.fixture
def plan(model: nn.Module) -> ft.Plan:
    return ft.plan(model, X)


@pytest.mark.parametrize("training", [True, False])
def test_a_point_computes_what_the_emitted_network_does(model: nn.Module, plan: ft.Plan, training: bool) -> None:
    model.train(training)
    cob = plan.sample(0.8, "inter", seed=1)
    emitted, point = plan.rewrite(cob).train(training), plan.at(cob)
    for name, p in emitted.named_parameters():
        assert torch.allclose(point.weights[name], p, rtol=1e-12)
    moved = {n: w + 0.1 * torch.randn_like(w) for n, w in point.weights.items()}
    expected = torch.func.functional_call(emitted, moved, (X,))
    assert torch.allclose(point(X, weights=moved), expected, rtol=1e-9)
    found = point.gradients(loss)
    emitted_gradients = gradients(emitted, loss)
    assert found.keys() == emitted_gradients.keys()
    for name, g in emitted_gradients.items():
        assert torch.allclose(found[name], g, rtol=1e-8, atol=1e-12)


def test_gradients_leave_running_statistics_alone(model: nn.Module) -> None:
    before = model[1].running_mean.clone()
    gradients(model.train(), loss)
    assert torch.equal(model[1].running_mean, before)


@pytest.mark.parametrize(
    "objective",
    [
        objectives.weight_norm, objectives.gradient_norm(loss), objectives.negative(objectives.gradient_norm(loss)),
        objectives.relative_gradient(loss), objectives.sharpness(loss), objectives.lookahead(loss, 0.1),
    ],
    ids=["weight", "gradient", "-gradient", "relative", "sharpness", "lookahead"],
)  # fmt: skip
def test_optimize_lowers_every_objective_and_keeps_the_function(
    model: nn.Module, plan: ft.Plan, objective: objectives.Objective
) -> None:
    model.eval()
    start = plan.sample(0.5, "inter", seed=4)
    found = plan.optimize(start, objective, steps=30)
    assert found.value < found.history[0] and len(found.history) == 31
    assert bool((found.cob.values.sign() == start.values.sign()).all())
    assert float(objective(plan.at(found.cob))) == pytest.approx(found.value, rel=1e-9)
    emitted = plan.rewrite(found.cob)
    assert torch.allclose(emitted(X), model(X), rtol=1e-8)
    assert float(loss(emitted)) == pytest.approx(float(loss(model)), rel=1e-9)


def test_optimize_finds_the_way_to_a_target(model: nn.Module, plan: ft.Plan) -> None:
    goal = plan.sample(0.5, "intra", seed=4)
    found = plan.optimize(plan.identity(), objectives.distance(plan.at(goal).weights), steps=800, lr=0.02)
    assert found.value < 0.02 * found.history[0]
    assert torch.allclose(found.cob.values, goal.values, atol=0.05)


def test_the_smallest_weight_norm_is_balanced() -> None:
    """At the minimum over tau of |W1 tau|^2 + |W2 / tau|^2 both are equal, neuron by neuron."""
    model = ft.randomize(nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False)).double())
    plan = ft.plan(model, torch.zeros(1, 4).double())
    found = plan.optimize(plan.identity(), objectives.weight_norm, steps=600, lr=0.02)
    weights = plan.at(found.cob).weights
    assert torch.allclose(weights["0.weight"].norm(dim=1), weights["2.weight"].norm(dim=0), rtol=0.02)


def test_optimize_says_what_is_wrong(model: nn.Module, plan: ft.Plan) -> None:
    with pytest.raises(ft.InputError, match="nothing to optimise"):
        line = nn.Linear(3, 3)
        still = ft.plan(line, torch.zeros(1, 3))
        still.optimize(still.identity(), objectives.weight_norm)
    with pytest.raises(ft.InputError, match="nan at the start"):
        plan.optimize(plan.identity(), lambda point: objectives.weight_norm(point) * float("nan"))


def test_pseudo_teleportation_goes_as_far_elsewhere(model: nn.Module, plan: ft.Plan) -> None:
    point = plan.at(plan.sample(0.9, "inter", seed=0))
    own = {n: p.detach() for n, p in model.named_parameters()}
    first, second = (controls.pseudo_teleport(own, point.weights, seed) for seed in (1, 2))
    goal = objectives.distance(own)
    assert float(goal(point)) == pytest.approx(_far(own, first)) == pytest.approx(_far(own, second))
    assert _far(first, second) > 0.5 * _far(own, first)
    assert all(torch.equal(first[n], w) for n, w in controls.pseudo_teleport(own, point.weights, 1).items())


def test_reinitialisation_keeps_the_distribution(model: nn.Module, plan: ft.Plan) -> None:
    weights = plan.at(plan.sample(0.9, "inter", seed=0)).weights
    drawn = controls.reinitialize(weights, seed=3)
    for name, w in weights.items():
        assert torch.equal(drawn[name].reshape(-1).sort().values, w.detach().reshape(-1).sort().values)
    assert not torch.equal(drawn["0.weight"], weights["0.weight"])


def _far(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return float(torch.cat([(a[n] - b[n]).reshape(-1) for n in a]).norm())
