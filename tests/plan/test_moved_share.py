"""The share of a model that moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.plan.moved_share import _zero_sums

SHAPES = [
    [(3, 1)],
    [(3, 1), (1, 4)],
    [(3, 4), (1, 4)],
    [(2, 1, 1), (1, 3, 1), (1, 1, 5)],
    [(2, 3, 1), (1, 1, 5)],
    [(2, 3, 1), (1, 3, 5), (2, 1, 1)],
    [(1, 1), (1, 1)],
]


@pytest.mark.parametrize("shapes", SHAPES)
def test_zeros_of_a_sum_are_counted(shapes: list[tuple[int, ...]]) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        keys = [random.integers(-2, 3, shape) for shape in shapes]
        whole = sum(np.broadcast_arrays(*keys))
        assert _zero_sums(keys) == ((whole == 0).sum(), whole.size)


class Experts(nn.Module):
    """One weight for all experts, as mixtures of experts have it."""

    def __init__(self, experts: int, width: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(experts, width, width))
        self.down = nn.Parameter(torch.randn(experts, width, width))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.relu(x @ self.up) @ self.down).sum(0)


def test_experts_as_large_as_published_ones_are_counted_without_a_table_of_their_size() -> None:
    with torch.device("meta"):
        model = Experts(256, 4096)
    plan = ft.plan(model, torch.zeros(4, 4096))
    assert plan.num_free == 256 + 4096 - 1  # a factor an axis; a common one is counted once
    assert plan.moved == 1.0
