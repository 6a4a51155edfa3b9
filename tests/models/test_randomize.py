"""Randomize: no parameter is left constant, the numbers are reproducible, and the network stays well scaled."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

import fxteleport as ft


@pytest.fixture
def model() -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(), nn.Flatten(), nn.Linear(8, 4), nn.LayerNorm(4)]
    net = nn.Sequential(*layers)
    net.register_buffer("table", torch.arange(4))
    return net


def test_every_parameter_is_drawn(model: nn.Module) -> None:
    for p in model.parameters():
        nn.init.zeros_(p)
    assert ft.randomize(model) is model
    for name, p in model.named_parameters():
        assert torch.isfinite(p).all()
        assert (p != 0).all(), name
        assert p.numel() == 1 or p.std() > 0, name


def test_statistics_are_drawn_and_positive(model: nn.Module) -> None:
    ft.randomize(model)
    norm = model[1]
    assert norm.running_mean.std() > 0
    assert 0.5 <= float(norm.running_var.min()) < float(norm.running_var.max()) <= 1.5
    assert int(norm.num_batches_tracked) == 0
    assert torch.equal(model.table, torch.arange(4))


def test_laws(model: nn.Module) -> None:
    wide = nn.Sequential(nn.Linear(400, 300), nn.LayerNorm(300))
    ft.randomize(wide)
    assert float(wide[0].weight.detach().std()) == pytest.approx(0.5 * 400**-0.5, rel=0.02)
    assert float(wide[0].bias.detach().std()) == pytest.approx(0.2, rel=0.15)
    assert 0.5 <= float(wide[1].weight.detach().min()) < float(wide[1].weight.detach().max()) <= 1.5


def test_seeds(model: nn.Module) -> None:
    one, two, other = (ft.randomize(copy.deepcopy(model), seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    state = torch.get_rng_state()
    ft.randomize(model)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_numbers_do_not_depend_on_the_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    plain, cast = ft.randomize(copy.deepcopy(model)), ft.randomize(copy.deepcopy(model).to(dtype))
    for a, b in zip(plain.parameters(), cast.parameters(), strict=True):
        assert b.dtype == dtype
        assert torch.equal(a.to(dtype), b)


def test_requires_grad_is_kept(model: nn.Module) -> None:
    model[0].weight.requires_grad_(False)
    ft.randomize(model)
    assert [p.requires_grad for p in model.parameters()][:2] == [False, True]
    assert all(p.is_leaf for p in model.parameters())


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    ft.randomize(model)
    assert model[1].weight is model[0].weight


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_outputs_depend_on_the_inputs(name: str) -> None:
    model = ft.randomize(timm.create_model(name, num_classes=10).eval())
    with torch.no_grad():
        out = model(torch.randn(2, 3, 64, 64))
    assert torch.isfinite(out).all()
    assert (out[0] != out[1]).all()
    assert 1e-3 < float(out.abs().max()) < 1e6
