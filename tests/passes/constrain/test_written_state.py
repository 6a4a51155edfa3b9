"""Weights and buffers that a run writes to have the CoB after it that they had before it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft


class MaskedConv(nn.Conv2d):
    """As PixelCNN's: what lies behind a pixel is not looked at."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, padding=1)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.mask[:, :, 1, 2:] = self.mask[:, :, 2] = 0

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class WrittenConv(MaskedConv):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.mul_(self.mask)
        return nn.Conv2d.forward(self, x)


class ClampedConv(MaskedConv):
    """What it writes has no CoB but 1: another bound would be another function."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.clamp_(-0.1, 0.2)
        return nn.Conv2d.forward(self, x)


class RowConv(MaskedConv):
    """It writes to a part."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data[:, :, 2] *= 0.5
        return nn.Conv2d.forward(self, x)


class Transposed(MaskedConv):
    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = self.weight.data.transpose(0, 1)
        return nn.Conv2d.forward(self, x)


class Averages(nn.Module):
    """A running mean that is written by hand, and subtracted."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.register_buffer("average", torch.randn(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        with torch.no_grad():
            self.average.mul_(0.5).add_(h.mean((0, 2, 3))[:, None, None], alpha=0.5)
        return self.last(torch.relu(h - self.average))


def chain(kind: type[nn.Module]) -> nn.Module:
    return nn.Sequential(kind(3, 6, 3), nn.ReLU(), kind(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))


@torch.no_grad()
@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize(
    ("kind", "free"),
    [(MaskedConv, 12), (WrittenConv, 12), (ClampedConv, 0), (RowConv, 0), (Transposed, 0), (Averages, 6)],
)
def test_runs_go_on_alike(kind: type[nn.Module], free: int, mode: Any) -> None:
    model = ft.randomize((Averages() if kind is Averages else chain(kind)).eval())
    if kind is Transposed:
        model[0] = nn.Conv2d(3, 6, 3)
    x = torch.randn(2, 3, 8, 8)
    plan = ft.plan(model, x, mode=mode)
    assert plan.num_free >= free
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    network = plan.rewrite(cob)
    assert ft.verify(model, network, x).bitwise_equal
    applied = copy.deepcopy(model)
    if mode == "weights":
        plan.apply_(cob, applied)
    for _ in range(3):  # each run finds what the one before has left
        expected = model(x)
        assert torch.equal(network(x), expected) and torch.equal(applied(x), expected)
