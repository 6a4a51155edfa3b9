"""Arrays of numpy's: those that a module holds are constants, those of integers among the inputs are data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft


class Weighs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.weights = nn.Linear(4, 6), nn.Linear(6, 3), np.linspace(0.5, 1.5, 6)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        mask = np.arange(5)[None] < np.asarray(lengths)[:, None]
        h = torch.relu(self.a(x)) * torch.as_tensor(self.weights, dtype=x.dtype)
        return self.b(h * torch.tensor(mask.astype(np.float32), device=x.device)[..., None])


@torch.no_grad()
def test_arrays_stop_no_trace() -> None:
    model, x, lengths = Weighs().eval(), torch.randn(2, 5, 4), torch.tensor([5, 3])
    plan = ft.plan(model, x, lengths)
    assert plan.num_free == 6 and not plan.opaque
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for inputs in (x, torch.randn(2, 5, 4)):
        assert torch.equal(network(inputs, lengths), model(inputs, lengths))
    with pytest.raises(ft.GuardError, match="the data decide"):
        network(x, torch.tensor([2, 4]))
