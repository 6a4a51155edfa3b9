"""A change of basis that would push weights out of their number format is refused before anything is changed."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fxteleport as ft
from fxteleport.io.stream import stream
from fxteleport.passes.scale.format_range import Format, largest, widest

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def made(dtype: torch.dtype = torch.float32, activation: type[nn.Module] = nn.ReLU) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 7), activation(), nn.Linear(7, 6), activation(), nn.Linear(6, 3)]
    model = ft.randomize(nn.Sequential(*layers).to(dtype).eval())
    return model, torch.randn(4, 5).to(dtype)


def far(plan: ft.Plan, doublings: float) -> ft.ChangeOfBasis:
    """Every other value is so many doublings, the others as many halvings."""
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(plan.num_free)[: plan.num_free]
    return plan.cob(2.0 ** (doublings * signs))


def suggested(error: ft.CobError) -> float:
    found = re.search(r"size [\d.e+-]+ to ([\d.e+-]+) fit", str(error))
    assert found is not None, error
    return math.log2(float(found[1]))


BEYOND = {torch.float64: 600.0, torch.float32: 115.0, torch.bfloat16: 115.0, torch.float16: 40.0}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["full", "weights"])
def test_it_is_refused_and_what_is_said_to_fit_fits(dtype: torch.dtype, mode: str) -> None:
    model, x = made(dtype)
    before = copy.deepcopy(model.state_dict())
    plan = ft.plan(model, x, mode=mode)
    uses = [plan.rewrite]
    if mode == "weights":
        uses += [plan.apply_, lambda cob: plan.apply_(cob, copy.deepcopy(model))]
    for use in uses:
        with pytest.raises(ft.CobError, match=str(dtype).removeprefix("torch.")) as caught:
            use(far(plan, BEYOND[dtype]))
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    near = suggested(caught.value)
    assert near > 1
    network = plan.rewrite(far(plan, near - 1e-3))
    assert all(t.isfinite().all() and t.count_nonzero() for t in network.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
def test_ordinary_laws_are_taken(dtype: torch.dtype) -> None:
    model, x = made(dtype)
    for mode in ("full", "weights"):
        plan = ft.plan(model, x, mode=mode)
        for law, far_ in (("inter", 0.9), ("positive", 1.0), ("log", 2.0)):
            for exact in (True, False):
                plan.rewrite(plan.sample(far_, law, exact=exact, seed=0))


def test_a_law_that_is_too_wide() -> None:
    model, x = made()
    plan = ft.plan(model, x)
    with pytest.raises(ft.CobError, match="landscape 'log'") as caught:
        plan.rewrite(plan.sample(80, "log", seed=0))
    fits = float(re.findall(r"at most ([\d.]+)", str(caught.value))[0])
    for seed in range(5):
        plan.rewrite(plan.sample(fits, "log", seed=seed))


def test_a_factor_that_float16_has_not() -> None:
    model, x = made(torch.float16)
    plan = ft.plan(model, x, mode="weights")
    values = torch.ones(plan.num_free, dtype=torch.float64)
    values[3] = 1e-30
    with pytest.raises(ft.CobError, match=r"pushes '\d\.weight' out of float16"):
        plan.apply_(plan.cob(values))


def test_a_wrapped_operation_must_hold_its_cob() -> None:
    """No weight leaves the format: both that scale by this value are float32, what is between is float16."""

    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 7), nn.Linear(7, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(nn.functional.gelu(self.a(x).half()).float())

    torch.manual_seed(0)
    model, x = ft.randomize(Narrow().eval()), torch.randn(4, 5)
    plan = ft.plan(model, x)
    plan.rewrite(far(plan, 10))
    with pytest.raises(ft.CobError, match="gelu, its input"):
        plan.rewrite(far(plan, 20))


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_a_live_network_is_left_as_it_was(mode: str) -> None:
    model, x = made(activation=nn.Tanh if mode == "full" else nn.ReLU)
    net = ft.Teleportable(model, x, mode=mode)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(x).sum().backward()
    optimizer.step()
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()["state"]))
    with pytest.raises(ft.CobError, match="out of float32"):
        net.teleport_(far(net.plan, 115), optimizer)
    after = net.state_dict(), optimizer.state_dict()["state"]
    assert all(torch.equal(a, after[0][n]) for n, a in before[0].items())
    assert all(torch.equal(v["momentum_buffer"], after[1][i]["momentum_buffer"]) for i, v in before[1].items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_checkpoint_is_refused_before_anything_is_written(dtype: torch.dtype, tmp_path: Path) -> None:
    model, x = made(dtype)
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    plan = ft.plan(model, x, mode="weights")
    with pytest.raises(ft.CobError, match="fit the model"):
        stream(plan, far(plan, BEYOND[dtype]), tmp_path / "net.safetensors", tmp_path / "out.safetensors")
    assert [f.name for f in tmp_path.iterdir()] == ["net.safetensors"]
    stream(plan, far(plan, 3), tmp_path / "net.safetensors", tmp_path / "out.safetensors")


def test_products_of_many_values_count_as_many() -> None:
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c((self.a(x) * self.b(x)) ** 3)

    torch.manual_seed(0)
    model, x = ft.randomize(Products().eval()), torch.randn(4, 5)
    plan = ft.plan(model, x, mode="weights")
    plan.rewrite(plan.cob(torch.full((12,), 2.0**10, dtype=torch.float64)))
    with pytest.raises(ft.CobError, match=r"pushes 'c\.weight' out of float32") as caught:
        plan.rewrite(plan.cob(torch.full((12,), 2.0**30, dtype=torch.float64)))
    plan.rewrite(plan.cob(torch.full((12,), 2 ** suggested(caught.value) - 1e-3, dtype=torch.float64)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_off_its_bits(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for shape, sign in (((3, 4), 0), ((1,), 1), ((7, 5), -1), ((), -1), ((2, 0), 0)):
        t = torch.randn(shape, generator=generator)
        t = (t if sign == 0 else t.abs() * sign).to(dtype)
        expected = float(t.double().abs().max()) if t.numel() else 0.0
        assert largest(t) == expected == largest(t.unsqueeze(0).expand(2, *t.shape).transpose(0, -1))
    special = torch.tensor([-0.0, 0.0, torch.finfo(dtype).tiny / 2], dtype=dtype)
    assert largest(special) == float(special[2]) and largest(special[:2]) == 0
    assert largest(torch.tensor([1.0, -3.0, -math.inf], dtype=dtype)) == 3
    assert largest(torch.tensor([1.0, -3.0, math.nan], dtype=dtype)) == 3


def test_sizes() -> None:
    assert largest(torch.tensor([1.0, -3.0])) == 3 and largest(torch.zeros(0)) == 0
    assert largest(torch.tensor([1.0, -math.inf, math.nan])) == 1
    assert largest(torch.tensor([3 - 4j])) == 4
    assert widest(torch.tensor([0.25, -2.0])) == 2 and widest(torch.ones(0)) == 0
    assert Format.of(torch.float16).lowest(1.0) == 2**-14 and Format.of(torch.float16).lowest(1e-3) == 2**-24
