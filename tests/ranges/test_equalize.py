"""Equalising: closed forms where they are known, laws where they are not, and errors that say what is wrong."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft

METHODS = ("range", "l2", "noise", "smoothquant", "awq")


def spread(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with random weights whose channels have ranges far apart."""
    random = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random) * 0.2
        if parameter.ndim > 1:
            size = torch.exp2(4 * torch.rand(len(parameter), generator=random) - 2)
            parameter.data *= size.view(-1, *[1] * (parameter.ndim - 1))
    return model.eval()


class Net(nn.Module):
    """A residual sum, a depthwise and a grouped convolution, a concatenation, ReLU6, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 8, 1)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=2)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        x = x + self.point(F.gelu(self.depth(x)))
        return self.head(torch.cat([x, F.relu(self.grouped(x))], 1).mean((2, 3)))


class Attention(nn.Module):
    """Queries, keys, values and an output, with a norm before."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (layer(y).unflatten(-1, (2, 8)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


CASES = {
    "convolutions": (lambda: spread(Net()), (2, 3, 8, 8)),
    "attention": (lambda: spread(Attention()), (2, 6, 16)),
    "transposed": (
        lambda: spread(nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3, groups=2))),
        (2, 3, 6, 6),
    ),
}


def case(name: str) -> tuple[nn.Module, Tensor]:
    make, shape = CASES[name]
    return make(), torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_never_worse_and_the_same_function(method: str, name: str, mode: str) -> None:
    model, x = case(name)
    plan = ft.plan(model, x, mode=mode)
    found = ft.equalized(plan, method, data=[x], exact=True)
    assert found.after <= found.before
    assert found.cob.is_exact
    assert bool((found.cob.values > 0).all())
    report = ft.verify(model, plan.rewrite(found.cob), x)
    assert report.passed
    assert report.bitwise_equal


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_never_above_the_error_of_the_network_as_it_is(method: str, per_channel: bool) -> None:
    """Also of one that was equalised already, and where activations are rounded, too."""
    model, x = case("convolutions")
    plan = ft.plan(model, x, mode="weights")
    plan.apply_(ft.equalize(plan, "range", [x], bits=4, per_channel=per_channel))
    plan = ft.plan(model, x)
    found = ft.equalized(plan, method, iter([x]), bits=4, per_channel=per_channel, activation_bits=6)
    assert found.error_before is not None and found.error_after is not None
    assert found.error_after <= found.error_before
    assert (found.share == 0) == bool((found.cob.values == 1).all())
    expected = model(x).detach()

    def error(cob: ft.ChangeOfBasis) -> float:
        with torch.no_grad():
            actual = ft.fake_quantize(plan.rewrite(cob), 4, per_channel, 6, [x])(x)
        return float((actual - expected).double().square().sum() / expected.double().square().sum())

    assert error(found.cob) == pytest.approx(found.error_after, rel=1e-3)
    assert error(plan.identity()) == pytest.approx(found.error_before, rel=1e-3)


def test_a_small_gain_is_not_taken() -> None:
    """A measured error is one draw of the rounding errors: what wins by less than asked is left."""
    model, x = case("convolutions")
    plan = ft.plan(model, x)
    data = [x, x + 0.1]
    taken = ft.equalized(plan, "range", data, bits=4, least_gain=1.0)
    assert taken.error_before is not None and taken.error_after is not None
    gain = taken.error_before / taken.error_after
    assert gain > 1
    assert torch.equal(ft.equalized(plan, "range", data, bits=4, least_gain=0.99 * gain).cob.values, taken.cob.values)
    assert ft.equalized(plan, "range", data, bits=4, least_gain=1.01 * gain).share == 0
    with pytest.raises(ft.InputError, match="least_gain"):
        ft.equalize(plan, least_gain=0.5)


@pytest.mark.parametrize("method", ["range", "l2"])
def test_two_layers_have_the_known_minimum(method: str) -> None:
    """Nagel et al., eq. 11: t = sqrt(column / row), up to a factor for all channels."""
    model, x = (
        spread(nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 5, bias=False))),
        torch.ones(2, 6),
    )
    plan = ft.plan(model, x)
    values = ft.equalize(plan, method).values
    weights = model[0].weight.detach().double(), model[2].weight.detach().double()
    factors = plan.scales(plan.cob(values))
    first, second = weights[0] * factors["0.weight"], weights[1] * factors["2.weight"]
    rows, columns = (
        (first.abs().amax(1), second.abs().amax(0)) if method == "range" else (first.norm(dim=1), second.norm(dim=0))
    )
    ratio = (rows / columns).log()
    assert float(ratio.std()) < 0.02


def test_smoothquant_is_its_formula() -> None:
    """Xiao et al., eq. 4: X / s, W * s with s = max|X|^alpha / max|W|^(1 - alpha), up to a factor for all channels."""
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 5))
    with torch.no_grad():
        model[0].weight.copy_(torch.exp2(torch.arange(8.0) - 4))
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    plan = ft.plan(model.eval(), x)
    assert plan.num_free == 8
    values = ft.equalize(plan, "smoothquant", [x], bits=16, activation_bits=4, alpha=0.7).values
    inputs, columns = model[0](x).detach().abs().amax(0).double(), model[1].weight.detach().abs().amax(0).double()
    expected = columns**0.3 / inputs**0.7
    index = plan.tau(plan.cob(values))[plan.map_of("_0").factors[0][0].reshape(-1)]
    assert float((index / expected).log().std()) < 0.02


@pytest.mark.parametrize("method", ["range", "l2", "noise"])
def test_a_network_that_was_moved_away_is_brought_back(method: str) -> None:
    model = ft.randomize(Net().eval(), 3)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = model(x).detach()
    ft.plan(model, x, mode="weights").apply_(ft.plan(model, x, mode="weights").sample(1.5, "log", seed=0))
    plan = ft.plan(model, x)

    def error(cob: ft.ChangeOfBasis) -> float:
        with torch.no_grad():
            return float((ft.fake_quantize(plan.rewrite(cob), 6)(x) - expected).square().mean())

    assert error(ft.equalize(plan, method, bits=6)) < 0.5 * error(plan.identity())


def test_zero_channels_keep_one_and_bounds_hold() -> None:
    model = spread(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)))
    with torch.no_grad():
        model[0].weight[2] = 0
        model[2].weight[:, 5] = 0
        model[0].bias.copy_(torch.arange(1.0, 9.0))
    plan = ft.plan(model, torch.ones(2, 6))
    cob = ft.equalize(plan, bound=1.5, bias_bound=1.25)
    tau = plan.scales(cob)["0.bias"]
    assert tau[2] == 1
    assert tau[5] == 1
    assert float(cob.values.max()) <= 1.5
    assert float(cob.values.min()) >= 1 / 1.5
    assert float((tau * model[0].bias.detach()).max()) <= 1.25 * 8 + 1e-9


def test_what_is_wrong_is_said_and_nothing_is_changed() -> None:
    model, x = case("convolutions")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    plan = ft.plan(model, x)
    wrong: list[tuple[dict[str, object], str]] = [
        ({"method": "magic"}, "unknown method"),
        ({"bits": 1}, "bits is a whole number"),
        ({"bound": 1.0}, "bound is a factor above 1"),
        ({"bias_bound": 0.5}, "bias_bound is a factor above 1"),
        ({"alpha": 2.0}, "alpha"),
        ({"method": "smoothquant"}, "needs data"),
        ({"activation_bits": 8}, "needs data"),
        ({"method": "noise", "data": []}, "no batch"),
        ({"method": "noise", "data": [torch.ones(2, 4)]}, "does not run on the data's batch 0"),
        ({"method": "noise", "data": [x * float("nan")]}, "not finite"),
        ({"method": "range", "data": [x, x * float("inf")], "activation_bits": 8}, "not finite"),
    ]
    for given, said in wrong:
        with pytest.raises(ft.InputError, match=said):
            ft.equalize(plan, **given)  # type: ignore[arg-type]
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_weights_without_a_range() -> None:
    model, x = case("convolutions")
    plan = ft.plan(model, x)
    with torch.no_grad():
        model.point.weight[0, 0] = float("nan")
    with pytest.raises(ft.ModelError, match=r"point\.weight.*NaN"):
        ft.equalize(plan)


def test_integer_weights() -> None:
    """Whole numbers as a format of their own are left alone; small floats are said to be quantised already."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).requires_grad_(False)
    for parameter in model.parameters():
        parameter.data = (10 * parameter.data).round().long()
    x = torch.ones(2, 4, dtype=torch.int64)
    plan = ft.plan(model, x)
    with pytest.raises(ft.InputError, match="nothing in this plan is free"):
        ft.equalize(plan)
    with pytest.raises(ft.InputError, match="nothing in this plan is free"):
        ft.fit_range(plan, [x])


def test_nothing_free() -> None:
    plan = ft.plan(nn.Sequential(nn.Linear(4, 4)), torch.ones(2, 4))
    with pytest.raises(ft.NothingFree, match="nothing in this plan is free"):
        ft.equalize(plan)
    with pytest.raises(ft.NothingFree, match="nothing in this plan is free"):
        ft.fit_range(plan, [torch.ones(2, 4)])
    meta = ft.plan(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).to("meta"), torch.ones(2, 4))
    with pytest.raises(ft.ModelError, match="meta"):
        ft.equalize(meta)
