"""Parameters that lie in the same memory, under several names or in several places."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


class Sharing(nn.Module):
    """Three layers of one size, some of whose memory is one."""

    def __init__(self, share: Callable[[Any], Any]) -> None:
        super().__init__()
        self.a, self.b, self.c, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.extra: Any = None
        share(self)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.a, self.b, self.c):
            x = torch.relu(layer(x))
        return self.last(x if self.extra is None else x + F.linear(x, self.extra))


def transposed(m: Any) -> None:
    m.c.weight = nn.Parameter(m.b.weight.data.t())


def same_data(m: Any) -> None:
    m.c.weight.data = m.b.weight.data


def rows_of_one(m: Any) -> None:
    whole = torch.randn(16, 8)
    m.b.weight, m.c.weight = nn.Parameter(whole[:8]), nn.Parameter(whole[8:])


def some_rows(m: Any) -> None:
    whole = torch.randn(12, 8)
    m.b.weight, m.c.weight = nn.Parameter(whole[:8]), nn.Parameter(whole[4:])


def flat(m: Any) -> None:
    vector = nn.utils.parameters_to_vector(m.parameters()).detach()
    nn.utils.vector_to_parameters(vector, m.parameters())


def expanded(m: Any) -> None:
    m.b.bias = nn.Parameter(torch.ones(1).expand(8))


def buffer(m: Any) -> None:
    del m.extra
    m.register_buffer("extra", m.b.weight.data)


def attribute(m: Any) -> None:
    m.extra = m.b.weight.detach()


def tied(m: Any) -> None:
    m.c.weight = m.b.weight


# Free values in weights mode: a weight that shares memory makes one of what is before and behind it.
SHARED: dict[Callable[[Any], Any], int] = {
    transposed: 1, same_data: 1, some_rows: 1, expanded: 8 + 8, buffer: 1 + 1, attribute: 1 + 1, tied: 8 + 1,
    rows_of_one: 24, flat: 24,
}  # fmt: skip


@pytest.mark.parametrize("share", SHARED, ids=lambda share: share.__name__)
def test_nothing_is_scaled_twice(share: Callable[[Any], Any]) -> None:
    model = Sharing(share)
    model.eval()
    expected = model(X).detach()
    plan = ft.plan(model, X, mode="weights")
    assert plan.num_free == SHARED[share], plan.groups
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    assert torch.equal(plan.rewrite(cob)(X), expected)
    before = copy.deepcopy(model.state_dict())
    plan.apply_(cob)
    assert torch.equal(model(X), expected)
    plan.apply_(cob.inverse())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("share", SHARED, ids=lambda share: share.__name__)
def test_an_emitted_network_has_memory_of_its_own(share: Callable[[Any], Any]) -> None:
    model = Sharing(share).eval()
    plan = ft.plan(model, X)
    assert torch.equal(plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))(X), model(X))
