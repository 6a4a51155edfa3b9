"""Changes of basis: laws of sampling, laws of the group, files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fxteleport as ft
from fxteleport.passes.domain.solution import FREE, POSITIVE, UNIT
from fxteleport.plan.choices import LANDSCAPES, check_range
from fxteleport.plan.cob import largest_power, sample_values

N = 4000
ALL_FREE = np.full(N, FREE)


@pytest.fixture
def plan() -> ft.Plan:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    return ft.plan(model, torch.ones(1, 3))


@pytest.mark.parametrize(
    ("landscape", "low", "high", "negative"),
    [
        ("intra", 0.3, 1.7, 0.0),
        ("inter", 0.3, 1.7, 0.5),
        ("positive", 0.0, 0.7, 0.0),
        ("negative", 0.0, 0.7, 1.0),
        ("centered", 0.3, 1.7, 0.0),
        ("log", np.exp(-0.7), np.exp(0.7), 0.0),
    ],
)
def test_ranges(landscape: str, low: float, high: float, negative: float) -> None:
    values = sample_values(ALL_FREE, 0.7, landscape, seed=0).numpy()
    assert values.dtype == np.float64
    assert values.shape == (N,)
    sizes = np.abs(values)
    assert low <= sizes.min() < low + 0.02 * high
    assert high * 0.98 < sizes.max() <= high
    assert abs((values < 0).mean() - negative) < 0.05
    if landscape != "log":
        assert abs(sizes.mean() - (low + high) / 2) < 0.03


def test_expected_squared_ratio_of_the_paper() -> None:
    """E[(tau_a / tau_b)**2] = (3 + s**2) / (3 (1 - s**2)) under the intra-landscape law."""
    sigma = 0.6
    many = np.full(400_000, FREE)
    a, b = (sample_values(many, sigma, "intra", seed=s) for s in (1, 2))
    assert float(((a / b) ** 2).mean()) == pytest.approx((3 + sigma**2) / (3 * (1 - sigma**2)), rel=0.01)


def test_centered_about_any_value() -> None:
    values = sample_values(ALL_FREE, 0.5, "centered", seed=0, center=-3.0)
    assert -3.5 <= float(values.min()) < float(values.max()) <= -2.5


@pytest.mark.parametrize("landscape", LANDSCAPES)
@pytest.mark.parametrize("cob_range", [0.1, 0.5, 0.9])
def test_exact_values_are_powers_of_two(landscape: str, cob_range: float) -> None:
    values = sample_values(ALL_FREE, cob_range, landscape, exact=True, seed=0)
    mantissa, power = torch.frexp(values.abs())
    assert bool((mantissa == 0.5).all())
    largest = largest_power(cob_range, landscape)
    assert 1 <= largest <= 8
    assert set((power - 1).tolist()) == set(range(-largest, largest + 1))
    negative = float((values < 0).double().mean())
    assert {"inter": abs(negative - 0.5) < 0.05, "negative": negative == 1}.get(landscape, negative == 0)


def test_a_seed_gives_the_same_numbers_everywhere() -> None:
    """Hard-coded: numpy's PCG64 is the same on every machine and in every version."""
    values = sample_values(ALL_FREE[:3], 0.5, "intra", seed=0)
    expected = 0.5 + np.random.Generator(np.random.PCG64(0)).random(3)
    assert values.tolist() == expected.tolist()
    assert values.tolist() == pytest.approx([1.1369616873214543, 0.7697867137638703, 0.5409735239361946], abs=1e-15)
    assert torch.equal(values, sample_values(ALL_FREE[:3], 0.5, "intra", seed=0))
    assert not torch.equal(values, sample_values(ALL_FREE[:3], 0.5, "intra", seed=1))


def test_without_a_seed_every_draw_differs() -> None:
    assert not torch.equal(sample_values(ALL_FREE[:9]), sample_values(ALL_FREE[:9]))


@pytest.mark.parametrize("landscape", LANDSCAPES)
@pytest.mark.parametrize("exact", [False, True])
def test_what_values_may_be(landscape: str, exact: bool) -> None:
    allows = np.array([FREE, POSITIVE, UNIT] * 500)
    values = sample_values(allows, 0.9, landscape, exact=exact, seed=0).numpy()
    assert (values[allows == POSITIVE] > 0).all()
    assert set(np.abs(values[allows == UNIT])) == {1.0}
    if landscape == "inter":
        assert set(values[allows == UNIT]) == {1.0, -1.0}
    assert (values != 0).all()


def test_a_restriction_does_not_change_the_other_values() -> None:
    allows = np.array([FREE, POSITIVE, UNIT] * 10)
    drawn = sample_values(allows, 0.9, "inter", seed=0)
    free = sample_values(np.full(30, FREE), 0.9, "inter", seed=0)
    assert torch.equal(drawn[::3], free[::3])
    assert torch.equal(drawn[1::3], free[1::3].abs())
    assert torch.equal(drawn[2::3], free[2::3].sign())


@pytest.mark.parametrize(
    ("cob_range", "landscape"),
    [
        (1.0, "intra"), (1.5, "inter"), (-0.1, "intra"), (float("nan"), "log"), (float("inf"), "log"),
        (0.0, "positive"), (0.0, "negative"), (1000.0, "log"), (0.5, "nowhere"), (-1.0, "centered"),
    ],
)  # fmt: skip
def test_ranges_outside_their_law_are_errors(cob_range: float, landscape: str, plan: ft.Plan) -> None:
    with pytest.raises(ft.CobError):
        check_range(cob_range, landscape)
    with pytest.raises(ft.CobError):
        plan.sample(cob_range, landscape)


def test_zero_range_is_the_identity(plan: ft.Plan) -> None:
    for landscape in ("intra", "log", "centered"):
        assert torch.equal(plan.sample(0.0, landscape).values, plan.identity().values)


@pytest.mark.parametrize("cob_range", [0.0, 1e-3, 1.0])
def test_centered_on_zero_draws_no_zero(cob_range: float, plan: ft.Plan) -> None:
    cob = plan.sample(cob_range, "centered", seed=0, center=0.0) if cob_range else None
    assert cob is None or bool((cob.values != 0).all())


# -- the group ---------------------------------------------------------------------------------------------------


def test_group_laws(plan: ft.Plan) -> None:
    a, b, c = (plan.sample(0.9, "inter", exact=True, seed=s) for s in range(3))
    one = plan.identity()
    assert torch.equal(((a @ b) @ c).values, (a @ (b @ c)).values)
    assert torch.equal((a @ one).values, a.values)
    assert torch.equal((one @ a).values, a.values)
    assert torch.equal((a @ a.inverse()).values, one.values)
    assert torch.equal((a.inverse() @ a).values, one.values)
    assert torch.equal((a @ b).inverse().values, (b.inverse() @ a.inverse()).values)
    assert (a @ b).fingerprint == a.inverse().fingerprint == plan.fingerprint


def test_tau_is_a_homomorphism(plan: ft.Plan) -> None:
    a, b = (plan.sample(0.9, "inter", exact=True, seed=s) for s in (1, 2))
    assert torch.equal(plan.tau(a @ b), plan.tau(a) * plan.tau(b))


def test_is_exact(plan: ft.Plan) -> None:
    assert plan.sample(0.9, "inter", exact=True, seed=0).is_exact
    assert plan.identity().is_exact
    assert not plan.sample(0.9, "inter", seed=0).is_exact


def test_cobs_of_two_plans_do_not_compose(plan: ft.Plan) -> None:
    other = ft.plan(nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 2)), torch.ones(1, 3))
    with pytest.raises(ft.CobError, match="different plans"):
        plan.identity() @ other.identity()
    with pytest.raises(ft.CobError, match="another plan"):
        plan.rewrite(other.identity())


# -- files ---------------------------------------------------------------------------------------------------------


def test_save_and_load(plan: ft.Plan, tmp_path: Path) -> None:
    cob = plan.sample(0.9, "inter", seed=0)
    cob.save(tmp_path / "cob.safetensors")
    again = ft.ChangeOfBasis.load(tmp_path / "cob.safetensors")
    assert torch.equal(again.values, cob.values)
    assert again.values.dtype == torch.float64
    assert again.fingerprint == cob.fingerprint
    plan.check(again)
    assert [p.name for p in tmp_path.iterdir()] == ["cob.safetensors"]


def test_a_file_of_another_plan_is_refused(plan: ft.Plan, tmp_path: Path) -> None:
    plan.sample(seed=0).save(str(tmp_path / "cob.safetensors"))
    model = plan.captured.model
    for other in (
        ft.plan(model, torch.ones(1, 3), mode="weights"),
        ft.plan(nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 2)), torch.ones(1, 3)),
    ):
        with pytest.raises(ft.CobError, match="another plan"):
            other.rewrite(ft.ChangeOfBasis.load(tmp_path / "cob.safetensors"))


def test_unreadable_files_are_errors(plan: ft.Plan, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(ft.CheckpointError, match="no file"):
        ft.ChangeOfBasis.load(tmp_path / "nothing")
    (tmp_path / "noise").write_bytes(b"\x00" * 99)
    with pytest.raises(ft.CheckpointError, match="not a readable"):
        ft.ChangeOfBasis.load(tmp_path / "noise")
    save_file({"values": torch.ones(3)}, tmp_path / "other")
    with pytest.raises(ft.CheckpointError, match="no change of basis"):
        ft.ChangeOfBasis.load(tmp_path / "other")
    with pytest.raises(ft.CheckpointError, match="cannot write"):
        plan.identity().save(tmp_path / "missing" / "cob")
    with pytest.raises(ft.CheckpointError):
        ft.ChangeOfBasis.load(tmp_path)


def test_values_that_require_grad_can_be_saved(plan: ft.Plan, tmp_path: Path) -> None:
    values = plan.sample(seed=0).values.requires_grad_()
    plan.cob(values).save(tmp_path / "cob")
    assert torch.equal(ft.ChangeOfBasis.load(tmp_path / "cob").values, values.detach())


# -- values of your own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), -float("inf")])
def test_bad_values_are_errors(bad: float, plan: ft.Plan) -> None:
    values = plan.identity().values.clone()
    values[2] = bad
    with pytest.raises(ft.CobError, match="value 2"):
        plan.cob(values)


@pytest.mark.parametrize("shape", [(0,), (8,), (10,), (9, 1), ()])
def test_wrong_lengths_are_errors(shape: tuple[int, ...], plan: ft.Plan) -> None:
    assert plan.num_free == 9
    with pytest.raises(ft.CobError, match="9 free"):
        plan.cob(torch.ones(shape))


def test_values_may_be_given_as_a_list_or_in_float32(plan: ft.Plan) -> None:
    assert plan.cob([2.0] * 9).values.dtype == torch.float64
    assert plan.cob(torch.full((9,), 2.0)).values.dtype == torch.float64


def test_restrictions_of_weights_mode() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    plan = ft.plan(model, torch.ones(1, 3), mode="weights")
    assert sorted(plan.solution.allows.tolist()) == [POSITIVE] * 5 + [UNIT] * 4
    positive = int(np.flatnonzero(plan.solution.allows == POSITIVE)[0])
    unit = int(np.flatnonzero(plan.solution.allows == UNIT)[0])
    for at, value, message in ((positive, -2.0, "positive"), (unit, 2.0, "1 or -1")):
        values = torch.ones(9)
        values[at] = value
        with pytest.raises(ft.CobError, match=message):
            plan.cob(values)
    values = torch.ones(9)
    values[positive], values[unit] = 2.0, -1.0
    network = plan.rewrite(plan.cob(values))
    x = torch.randn(4, 3)
    assert torch.equal(network(x), model(x))


def test_a_cob_can_be_learned() -> None:
    """Gradients reach the values through the scales."""
    model = ft.randomize(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)))
    plan = ft.plan(model, torch.ones(1, 3))
    values = torch.ones(plan.num_free, dtype=torch.float64, requires_grad=True)

    def energy() -> torch.Tensor:
        scales = plan.scales(plan.cob(values))
        return sum((p.detach() * scales.get(n, torch.ones(()))).square().sum() for n, p in model.named_parameters())

    before = energy()
    before.backward()
    assert values.grad is not None
    assert float(values.grad.abs().max()) > 0
    with torch.no_grad():
        values -= 0.01 * values.grad
    assert float(energy().detach()) < float(before.detach())
