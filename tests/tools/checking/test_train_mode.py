"""Train mode: batch statistics, dropout and what they leave behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fxteleport as ft
from fxteleport.tools.checking.train_mode import verify_training


@pytest.fixture(scope="module")
def model() -> nn.Module:
    layers = [nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4)]
    return ft.randomize(nn.Sequential(*layers).double().eval())


X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()


def test_train_mode_tells_the_modes_apart(mode: str, norm_stats: str, model: nn.Module) -> None:
    """Rescaled statistics are exact in eval mode only; the others in both, and so are the statistics they gather."""
    plan = ft.plan(model, X, mode=mode, norm_stats=norm_stats)
    for exact in (True, False):
        network = plan.rewrite(plan.sample(0.9, "inter", exact, seed=0))
        assert ft.verify(model, network, X).passed
        report = verify_training(model, network, (X,), {}, exact)
        assert report.passed == (norm_stats != "rescaled")
        assert report.bitwise_equal == (exact and norm_stats != "rescaled")


def test_a_statistic_that_is_not_updated_is_caught(model: nn.Module) -> None:
    other = copy.deepcopy(model)
    other[1].momentum = 0.2
    assert ft.verify(model, other, X).passed
    assert not verify_training(model, other, (X,), {}, exact=True).passed


def test_a_dropout_that_drops_otherwise_is_caught(model: nn.Module) -> None:
    other = copy.deepcopy(model)
    other[3].p = 0.4
    assert not verify_training(model, other, (X,), {}, exact=True).passed


def test_networks_are_left_as_they_were(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    verify_training(model, model, (X,), {}, exact=True)
    assert not model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
