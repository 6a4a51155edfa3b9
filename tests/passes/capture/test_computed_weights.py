"""Weights that are computed anew in each run: spectral and weight norm, of recurrent layers too, while training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import fxteleport as ft

pytestmark = pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning", "ignore::FutureWarning")
HH = "weight_hh_l0"
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(8, 8)),
    "spectral norm, old": lambda: spectral_norm(nn.Linear(8, 8)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(8, 8)),
    "weight norm, old": lambda: weight_norm(nn.Linear(8, 8)),
    "weight norm of an LSTM": lambda: parametrizations.weight_norm(nn.LSTM(8, 8), HH),
    "weight norm of an LSTM, old": lambda: weight_norm(nn.LSTM(8, 8), HH),
    "weight norm of a GRU": lambda: parametrizations.weight_norm(nn.GRU(8, 8), HH),
    "spectral norm of an LSTM": lambda: parametrizations.spectral_norm(nn.LSTM(8, 8), HH),
    "spectral norm of both weights": lambda: parametrizations.spectral_norm(
        parametrizations.spectral_norm(nn.LSTM(8, 8), HH), "weight_ih_l0"
    ),
    "spectral norm of an LSTM, old": lambda: spectral_norm(nn.LSTM(8, 8), HH),
}


class Net(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.layer, self.b = nn.Linear(6, 8), LAYERS[name](), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        h: Any = self.layer(torch.relu(self.a(x)))
        return self.b(h[0] if isinstance(h, tuple) else h)


@pytest.mark.parametrize("name", LAYERS)
def test_each_step_is_the_originals(name: str) -> None:
    x = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for mode, planned_in in (("full", False), ("weights", True)):
        model = Net(name).double().train(planned_in)
        plan = ft.plan(model, x, mode=mode)
        cob = plan.sample(0.9, "inter", exact=True, seed=0)
        network = plan.rewrite(cob)
        for training in (False, True, True, False):
            y, z = model.train(training)(x), network.train(training)(x)
            assert torch.equal(y, z)
        for net in (model, network):
            net.train()(x).square().sum().backward()
        factors, gradients = plan.scales(cob), dict(network.named_parameters())
        for key, parameter in model.named_parameters():
            found = gradients[key].grad
            assert found is not None
            torch.testing.assert_close(found * factors.get(key, 1), parameter.grad, rtol=1e-9, atol=1e-11)
