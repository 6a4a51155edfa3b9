"""Alignment finds the change of basis between two networks, where there is one and where there nearly is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft


class Gated(nn.Module):
    """Products of streams: weights whose factor is made of three free values."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 9), nn.Linear(6, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x) * self.b(x))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.GELU(), nn.Flatten(),
        nn.Linear(32, 5),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 15), nn.Tanh(), nn.Linear(15, 3))


CASES = {"mlp": (mlp, (2, 12)), "conv": (conv, (2, 3, 6, 6)), "gated": (Gated, (2, 6))}


def made(kind: str, mode: str = "full") -> tuple[nn.Module, ft.Plan]:
    build, shape = CASES[kind]
    model = ft.randomize(build().double().eval())
    return model, ft.plan(model, torch.zeros(shape, dtype=torch.float64), mode=mode)


def teleported(model: nn.Module, plan: ft.Plan, cob: ft.ChangeOfBasis) -> dict[str, Tensor]:
    scales = plan.scales(cob)
    return {n: p.detach() * scales.get(n, 1.0) for n, p in model.named_parameters()}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("landscape", ["intra", "inter"])
def test_it_finds_a_change_of_basis_that_exists(kind: str, mode: str, landscape: str) -> None:
    model, plan = made(kind, mode)
    cob = plan.sample(0.9, landscape, seed=5)
    found = plan.align(model, teleported(model, plan, cob))
    assert found.exact and found.before > 0.1
    assert found.after < 1e-9
    if kind != "gated":  # there the signs of both streams may be turned at once
        assert torch.allclose(found.cob.values, cob.values, rtol=1e-8)


def test_it_takes_networks_and_is_the_inverse_one_way_back() -> None:
    model, plan = made("conv")
    cob = plan.sample(0.5, "inter", seed=1)
    other = plan.rewrite(cob)
    there, back = plan.align(model, other), plan.align(other, model)
    assert torch.allclose((there.cob @ back.cob).values, plan.identity().values, rtol=1e-8)


def test_noise_moves_it_little() -> None:
    model, plan = made("mlp")
    cob = plan.sample(0.7, "inter", seed=2)
    generator = torch.Generator().manual_seed(3)
    noisy = {
        n: w + 0.05 * w.std() * torch.randn(w.shape, generator=generator, dtype=w.dtype)
        for n, w in teleported(model, plan, cob).items()
    }
    found = plan.align(model, noisy)
    assert not found.exact and 0.02 < found.after < 0.06
    assert bool((found.cob.values.sign() == cob.values.sign()).all())
    assert float((found.cob.values / cob.values - 1).abs().median()) < 0.03


def test_a_few_wild_weights_do_not_matter() -> None:
    model, plan = made("mlp")
    cob = plan.sample(0.7, "inter", seed=2)
    weights = teleported(model, plan, cob)
    weights["2.weight"][3, 4] *= -50
    weights["2.weight"][7, 1] *= 30
    found = plan.align(model, weights)
    assert torch.allclose(found.cob.values, cob.values, rtol=0.05)
    assert not found.exact and found.distances["0.weight"] < 0.05 < found.distances["2.weight"]


def test_unrelated_networks_stay_far() -> None:
    model, plan = made("mlp")
    other = ft.randomize(mlp().double(), seed=9)
    found = plan.align(model, other)
    assert not found.exact and 0.5 < found.after < found.before


def test_zeros_say_nothing() -> None:
    model, plan = made("mlp")
    with torch.no_grad():
        model[0].weight[:, ::2] = 0
        model[2].bias.zero_()
    cob = plan.sample(0.5, "inter", seed=2)
    found = plan.align(model, teleported(model, plan, cob))
    assert found.exact and torch.allclose(found.cob.values, cob.values, rtol=1e-8)


def test_wrong_weights_are_named() -> None:
    model, plan = made("mlp")
    weights = teleported(model, plan, plan.identity())
    with pytest.raises(ft.InputError, match=r"no parameter '0.bias'"):
        plan.align(model, {n: w for n, w in weights.items() if n != "0.bias"})
    with pytest.raises(ft.InputError, match=r"'0.bias' has shape"):
        plan.align(model, weights | {"0.bias": torch.zeros(2)})


def descended(plan: ft.Plan, a: nn.Module, b: nn.Module, start: ft.ChangeOfBasis) -> float:
    """The relative distance that plain gradient descent on the log-magnitudes reaches."""
    goal = {n: p.detach() for n, p in b.named_parameters()}
    whole = sum(float(w.square().sum()) for w in goal.values())

    def distance(point: ft.Point) -> Tensor:
        return sum((point.weights[n] - w).square().sum() for n, w in goal.items()) / whole  # type: ignore[return-value]

    return plan.optimize(start, distance, steps=80, lr=0.1).value ** 0.5


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("mode", ["full", "weights"])
def test_it_is_as_near_as_descent_and_never_farther_than_the_identity(kind: str, mode: str) -> None:
    build, shape = CASES[kind]
    a, b = (ft.randomize(build().double().eval(), seed) for seed in (0, 1))
    plan = ft.plan(a, torch.zeros(shape, dtype=torch.float64), mode=mode)
    found = plan.align(a, b)
    assert found.after <= found.before
    starts = (plan.identity(), plan.sample(0.5, "inter", seed=3))
    assert found.after <= 1.01 * min(descended(plan, a, b, start) for start in starts)


def trained(seed: int) -> nn.Module:
    """A small convolutional network that tells rows from columns."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 2),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(60):
        x = torch.randn(32, 1, 4, 4, generator=generator)
        y = (x.mean(2).abs().amax((1, 2)) > x.mean(3).abs().amax((1, 2))).long()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_networks_that_were_trained_apart(mode: str) -> None:
    a, b = trained(1), trained(2)
    plan = ft.plan(a, torch.zeros(2, 1, 4, 4), mode=mode)
    found = plan.align(a, b)
    assert not found.exact and found.after <= found.before
    starts = (plan.identity(), plan.sample(0.5, "inter", seed=3))
    assert found.after <= 1.01 * min(descended(plan, a, b, start) for start in starts)


def test_the_identity_is_where_nothing_is_nearer() -> None:
    """Pruned networks: two zeros are no weight that is mapped."""
    model, plan = made("mlp")
    other = ft.randomize(mlp().double(), seed=9)
    with torch.no_grad():
        for network in (model, other):
            for p in network.parameters():
                p[torch.rand(p.shape, generator=torch.Generator().manual_seed(4)) < 0.8] = 0
    found = plan.align(model, other)
    assert not found.exact and found.after <= found.before


def test_align_is_a_function_and_a_method() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    plan = ft.plan(model, torch.randn(1, 3, dtype=torch.float64))
    other = plan.rewrite(plan.sample(seed=1))
    assert torch.equal(ft.align(plan, model, other).cob.values, plan.align(model, other).cob.values)
