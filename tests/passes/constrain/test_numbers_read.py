"""A number that a run makes of a tensor's values leaves the graph without a CoB: what it is made of has the CoB 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft


def item(h: Tensor) -> Any:
    return h.mean().item()


def converted(h: Tensor) -> Any:
    return float(h.mean())


def listed(h: Tensor) -> Any:
    return h[0, :2].tolist()[0]


def kept_whole(h: Tensor) -> Any:
    return float(h[0, 0]) if h[0, 0] > 0 else float(h[0, 1])


class Multiplies(nn.Module):
    def __init__(self, read: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.read = nn.Linear(6, 5), nn.Linear(5, 3), read

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h) * self.read(h)


@pytest.mark.parametrize(("read", "free"), [(item, 0), (converted, 0), (listed, 3), (kept_whole, 0)])
@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
def test_what_a_number_is_made_of_is_pinned(read: Callable[[Tensor], Any], free: int) -> None:
    model, x = ft.randomize(Multiplies(read).eval()), torch.randn(2, 6)
    plan = ft.plan(model, x)
    assert plan.num_free == free
    assert ft.verify(model, plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0)), x).bitwise_equal
