"""Fitting a range: what overflowed comes back to the last bit, and what cannot fit is said by name."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft


class Net(nn.Module):
    """A residual sum, a depthwise convolution, a concatenation, and an activation that no scale goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 8, 1)
        self.side = nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + self.point(F.relu(self.depth(x)))
        return self.head(torch.cat([x, F.gelu(self.side(x))], 1).mean((2, 3)))


class Attention(nn.Module):
    """Queries, keys, values and an output."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (2, 8)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


NETS = {"convolutions": (Net, (2, 3, 8, 8)), "attention": (Attention, (2, 6, 16))}


def moved(name: str, exponent: int = 18) -> tuple[nn.Module, Tensor]:
    """A network whose function is plain and whose values are far outside of float16."""
    make, shape = NETS[name]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(shape)
    plan = ft.plan(model, x, mode="weights")
    powers = torch.randint(exponent // 2, exponent + 1, (plan.num_free,)).double()
    plan.apply_(plan.cob(powers.exp2()))
    return model, x


def in_half(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(network).half()(x.half()).float()


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", NETS)
def test_what_overflows_comes_back_to_the_last_bit(name: str, mode: str) -> None:
    model, x = moved(name)
    assert not in_half(model, x).isfinite().all()
    expected = model(x).detach()
    plan = ft.plan(model, x, mode=mode)
    cob = ft.fit_range(plan, [x])
    assert cob.is_exact and bool((cob.values > 0).all())
    network = plan.rewrite(cob)
    assert torch.equal(network(x), expected)
    assert torch.allclose(in_half(network, x), expected, rtol=0.02, atol=0.02)
    report = ft.range_report(plan, cob, [x])
    limit = torch.finfo(torch.float16).max
    assert any(row.before.overflow for row in report)
    assert not any(row.after.overflow for row in report)
    assert all(row.after.largest <= limit / (1 if row.is_weight else 2) for row in report)


def test_what_fits_stays() -> None:
    make, shape = NETS["convolutions"]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(shape)
    plan = ft.plan(model, x)
    assert bool((ft.fit_range(plan, [x]).values == 1).all())


def test_weights_below_the_normal_range_are_lifted() -> None:
    """Rows of 2^-20, columns of 2^20: each is outside of float16, and their product is not."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval(), torch.randn(8, 4)
    plan = ft.plan(model, x, mode="weights")
    plan.apply_(plan.cob(torch.full((6,), 2.0**-20)))
    plan = ft.plan(model, x, mode="weights")
    rows = {row.name: row for row in ft.range_report(plan, ft.fit_range(plan, [x]), [x]) if row.is_weight}
    assert rows["0.weight"].before.subnormal == 24
    assert rows["0.weight"].after.subnormal <= 1
    assert rows["2.weight"].before.overflow > 0
    assert rows["2.weight"].after.overflow == 0


def test_headroom_is_kept() -> None:
    model, x = moved("convolutions")
    plan = ft.plan(model, x)
    report = ft.range_report(plan, ft.fit_range(plan, [x], headroom=256.0), [x])
    assert all(row.after.largest <= 65504 / 256 for row in report if not row.is_weight)


def test_what_is_wrong_is_said_and_nothing_is_changed() -> None:
    model, x = moved("convolutions")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    plan = ft.plan(model, x)
    wrong: list[tuple[dict[str, object], str]] = [
        ({"dtype": torch.int8}, "floating-point format"),
        ({"headroom": 0.5}, "headroom is a factor from 1"),
        ({"headroom": float("nan")}, "headroom is a factor from 1"),
        ({"time_limit": 0}, "time_limit is a number of seconds above 0"),
        ({"data": []}, "no batch"),
        ({"data": [torch.ones(2, 4)]}, "does not run on the data's batch 0"),
        ({"data": [x * float("nan")]}, "NaN"),
    ]
    for given, said in wrong:
        with pytest.raises(ft.InputError, match=said):
            ft.fit_range(plan, **({"data": [x]} | given))  # type: ignore[arg-type]
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    with pytest.raises(ft.ModelError, match=r"head\.bias.*NaN"):
        ft.fit_range(plan, [x])
    del before["head.bias"]
    assert all(torch.equal(model.state_dict()[n], t) for n, t in before.items())


def test_a_bound_that_cannot_be_met_names_the_values() -> None:
    """The outputs of a network are pinned, and so are its inputs."""
    model, x = moved("convolutions")
    with torch.no_grad():
        model.head.bias += 1e5
    with pytest.raises(ft.InputError, match=r"no change of basis.*'head.*inside float16 \(at most 65504"):
        ft.fit_range(ft.plan(model, x), [x])


def test_nothing_free() -> None:
    plan = ft.plan(nn.Sequential(nn.Linear(4, 4)), torch.ones(2, 4))
    with pytest.raises(ft.InputError, match="nothing in this plan is free"):
        ft.fit_range(plan, [torch.ones(2, 4)])
