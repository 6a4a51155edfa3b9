"""Models built without weights: the same plan, and nothing in memory."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import fxteleport as ft
from fxteleport.tools.models.memory import peak_bytes


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shared = nn.Parameter(torch.zeros(3, 3))
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.a.weight, self.b.weight = shared, shared
        self.c.weight = self.a.weight
        self.nothing = None
        self.register_parameter("none", None)
        self.register_buffer("index", torch.arange(3))
        self.fixed = nn.Parameter(torch.ones(2), requires_grad=False)


def test_parameters_are_on_meta_and_tied_buffers_real() -> None:
    with ft.without_weights():
        net = Tied()
    assert all(p.is_meta for p in net.parameters())
    assert net.a.weight is net.b.weight is net.c.weight
    assert not net.fixed.requires_grad
    assert net.index.tolist() == [0, 1, 2]
    assert not nn.Linear(2, 2).weight.is_meta


def test_it_ends_with_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), ft.without_weights():
        raise ZeroDivisionError
    assert not nn.Linear(2, 2).weight.is_meta


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_the_plan_is_that_of_the_model(name: str) -> None:
    """Swin's tables are indexed by a buffer, which is to be known."""
    with ft.without_weights():
        empty = timm.create_model(name).eval()
    x = torch.zeros(1, 3, 224, 224)
    plans = [ft.plan(m, x, mode="weights") for m in (empty, timm.create_model(name).eval())]
    assert plans[0].fingerprint == plans[1].fingerprint
    assert plans[0].num_free == plans[1].num_free > 0


def test_memory() -> None:
    def build() -> nn.Module:
        with ft.without_weights():
            return nn.Sequential(*(nn.Linear(8000, 8000) for _ in range(8)))

    net, peak = peak_bytes(build)
    assert sum(p.numel() * p.element_size() for p in net.parameters()) > 2e9
    assert peak < 50e6
