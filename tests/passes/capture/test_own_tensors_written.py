"""Forwards that write to their own parameters and buffers: the next layer sees it, and so does the next run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Writing(nn.Module):
    """Three layers, and two buffers; something happens between the first and the second layer."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("largest", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.between(self, self.first(x))
        return self.last(torch.relu(self.second(torch.relu(h))))


def written(write: Callable[[Any], Any]) -> Callable[[Any, Tensor], Tensor]:
    def between(network: Any, h: Tensor) -> Tensor:
        write(network)
        return h

    return between


def set_first_row(network: Any) -> None:
    network.second.weight[0] = 0.25


WRITES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a weight": written(lambda m: m.second.weight.mul_(0.5)),
    "normalised": written(lambda m: m.second.weight.div_(m.second.weight.norm(dim=1, keepdim=True).clamp(min=1))),
    "renormalised": written(lambda m: m.second.weight.renorm_(2, 0, 1.0)),
    "copied": written(lambda m: m.second.weight.copy_(m.second.weight * 0.5)),
    "a row": written(lambda m: m.second.weight[0].mul_(2)),
    "a row set": written(set_first_row),
    "detached": written(lambda m: m.second.weight.detach().clamp_(-0.1, 0.1)),
    "its data": written(lambda m: m.second.weight.data.mul_(0.5)),
    "a bias": written(lambda m: m.second.bias.add_(0.5)),
    "initialised": written(lambda m: nn.init.zeros_(m.second.bias)),
    "after its use": lambda m, h: (m.second(h), m.second.weight.mul_(0.5))[0],
    "by a function": lambda m, h: F.linear(h, m.second.weight.mul_(0.5)),
    "a mean": lambda m, h: h - m.mean.mul_(0.9).add_(h.mean(0) * 0.1),
    "a largest": lambda m, h: h / m.largest.copy_(h.abs().amax(0)),
}


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", WRITES)
def test_run_after_run(name: str, mode: str) -> None:
    """The emitted network, and the model that `apply_` changed, are the original's in every run."""
    model = ft.randomize(Writing(WRITES[name]).eval())
    before = copy.deepcopy(model.state_dict())
    plan = ft.plan(model, X, mode=mode)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    networks = [plan.rewrite(cob)]
    if mode == "weights":
        networks.append(plan.apply_(cob, copy.deepcopy(model)))
    for _ in range(3):
        x = torch.randn(6, 4)
        expected = model(x)
        for network in networks:
            assert torch.equal(network(x), expected)
