"""norms="scaled": in weights mode a norm's input may have one factor, and the function is kept but for its epsilon."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.rewrite.restored_epsilons import with_epsilons


class Rms(nn.Module):
    def __init__(self, eps: float = 1e-2) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


NORMS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "LayerNorm": lambda: nn.LayerNorm(8, eps=1e-2),
    "RMSNorm": lambda: nn.RMSNorm(8, eps=1e-2),
    "layer_norm": lambda: lambda x: F.layer_norm(x, (8,), eps=1e-2),
    "normalize": lambda: lambda x: F.normalize(x, dim=-1, eps=1e-2),
    "GroupNorm": lambda: lambda x: F.group_norm(x.mT, 2, eps=1e-2).mT,
    "InstanceNorm": lambda: nn.InstanceNorm1d(5, eps=1e-2),
    "by hand": Rms,
}
X = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(2)).double()


class Stream(nn.Module):
    """A residual stream before norms."""

    def __init__(self, norm: Callable[[], Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        self.up, self.down = nn.Linear(8, 6), nn.Linear(6, 8)
        self.first, self.last = norm(), norm()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.down(F.gelu(self.up(self.first(x))))
        return self.head(self.last(x))


def made(name: str = "LayerNorm", dtype: torch.dtype = torch.float64) -> nn.Module:
    return ft.randomize(Stream(NORMS[name]).to(dtype), 0).eval()


def planned(model: nn.Module, x: Tensor = X, norms: str = "scaled") -> ft.Plan:
    return ft.plan(model, x, mode="weights", norms=norms, checks=True)


def of_the_stream(plan: ft.Plan, factor: float) -> ft.ChangeOfBasis:
    """One number for the stream, and 1 for all else."""
    symbols = plan.map_of("stem").factors[0][0].reshape(-1)
    place = int(plan.solution.index[symbols[0]])
    values = torch.ones(plan.num_free, dtype=torch.float64)
    values[place] = factor
    return plan.cob(values)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_it_is_exact_but_for_the_epsilon(name: str, dtype: torch.dtype) -> None:
    """With the epsilons put right, every node is the original's to the last bit; without, the function is near."""
    model, x = made(name, dtype), X.to(dtype)
    plan = planned(model, x)
    assert plan.num_free > planned(model, x, "exact").num_free or name == "by hand"
    network = plan.rewrite(of_the_stream(plan, 64.0))
    assert network.state_dict().keys() == model.state_dict().keys()
    report = ft.verify(model, network, x)
    assert report.passed
    assert report.epsilon_gap is not None
    assert report.nodes > 5
    assert not report.tolerance  # to the last bit
    assert "epsilons put right" in repr(report)
    twin = with_epsilons(network, plan.scaled_norms, plan.tau(of_the_stream(plan, 64.0)))
    with torch.no_grad():
        assert torch.equal(twin(x), model(x))


def test_what_is_wrong_is_found() -> None:
    """A fault is none of the epsilons', and does not pass for one."""
    model = made()
    plan = planned(model)
    network = plan.rewrite(of_the_stream(plan, 64.0))
    with torch.no_grad():
        network.up.weight[0, 0] *= 1 + 1e-9
    assert not ft.verify(model, network, X).passed


@pytest.mark.parametrize("power", range(-5, 9))
@pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm", "layer_norm", "by hand"])
def test_the_bound(name: str, power: int) -> None:
    """A norm's result differs by at most eps / (2 variance) * max(1, 1 / c^2) of itself (docs/method.md)."""
    norm, eps, c = NORMS[name](), 1e-2, 2.0**power
    for scale in (0.01, 0.1, 1.0, 10.0):
        x = torch.randn(50, 8, generator=torch.Generator().manual_seed(power + 5)).double() * scale
        if isinstance(norm, nn.Module):
            norm.double()
        with torch.no_grad():
            exact, found = norm(x), norm(x * c)
        variance = x.pow(2).mean(-1, keepdim=True) if "R" in name or name == "by hand" else x.var(-1, False)[:, None]
        bound = eps / (2 * variance) * max(1.0, c**-2)
        assert bool(((found - exact).abs() <= (bound * exact.abs()) * (1 + 1e-9) + 1e-15).all())


def test_normalize_is_exact_above_its_epsilon() -> None:
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(F.normalize(x * 0.125, dim=-1, eps=1e-3), F.normalize(x, dim=-1, eps=1e-3))


def test_it_is_a_condition() -> None:
    model = made()
    plan = planned(model)
    assert [c.kind for c in plan.conditions].count("norm") == 2
    assert not [c for c in planned(model, norms="exact").conditions if c.kind == "norm"]
    cob = of_the_stream(plan, 4.0)
    with pytest.raises(ft.ConditionError, match="epsilon stays"):
        plan.apply_(cob, copy.deepcopy(model), strict=True)
    with pytest.warns(ft.ConditionWarning, match="epsilon stays"):
        plan.apply_(cob, copy.deepcopy(model))


def test_a_norm_of_what_cannot_move_is_no_condition() -> None:
    plan = planned(nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 4), nn.Linear(4, 2)))
    assert not [c for c in plan.conditions if c.kind == "norm"]


def test_the_sign_stays() -> None:
    plan = planned(made())
    with pytest.raises(ft.CobError):
        plan.rewrite(of_the_stream(plan, -2.0))


def test_weights_of_the_original_class() -> None:
    """apply_ and its inverse; a state dict of the original's keys."""
    model = made()
    plan, twin = planned(model), made()
    cob = of_the_stream(plan, 64.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan.apply_(cob, twin)
    assert torch.equal(twin.stem.weight, model.stem.weight * 64)
    with torch.no_grad():
        assert float((twin(X) - model(X)).abs().max() / model(X).abs().max()) < 0.2
    plan.apply_(cob.inverse(), twin)
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = made()
    plan = planned(model)
    network = plan.rewrite(of_the_stream(plan, 64.0))
    ft.save(tmp_path / "moved", network, "stream")
    again = ft.load(tmp_path / "moved", model=made())
    assert torch.equal(again(X), network(X))
    assert ft.verify(model, again, X).epsilon_gap is not None


def test_a_layer_that_is_called_twice_is_compared_as_it_is() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)
            self.norm = nn.LayerNorm(8, eps=1e-2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.b(self.norm(self.a(x)))))

    model = ft.randomize(Twice().double(), 0).eval()
    plan = planned(model)
    report = ft.verify(model, plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0)), X)
    assert report.epsilon_gap is None
    assert not report.passed


@pytest.mark.parametrize(("settings", "message"), [
    ({"mode": "full", "norms": "scaled"}, "norms get epsilons of their own"),
    ({"mode": "weights", "norms": "any"}, "unknown norms 'any'"),
])  # fmt: skip
def test_bad_settings(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ft.InputError, match=message):
        ft.plan(made(), X, **settings)


def test_a_range_is_fitted_by_the_stream() -> None:
    """A pre-norm network whose stream is too large for float16 is moved into it as a whole."""
    model = made(dtype=torch.float32)
    with torch.no_grad():
        for layer in (model.stem, model.down):
            layer.weight.mul_(1e6)
            layer.bias.mul_(1e6)
    x = X.float()
    with pytest.raises(ft.InputError, match="keeps"):
        ft.fit_range(planned(model, x, "exact"), [x])
    plan = planned(model, x)
    network = plan.rewrite(ft.fit_range(plan, [x]))
    report = ft.verify(model, network, x)
    assert report.passed
    assert report.epsilon_gap < 1e-5
    assert not bool(copy.deepcopy(model).half()(x.half()).isfinite().all())
    assert bool(copy.deepcopy(network).half()(x.half()).isfinite().all())
