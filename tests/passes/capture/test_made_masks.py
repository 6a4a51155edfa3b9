"""Masks that `forward` makes of zeros and then writes to where the data say, as audio models do with lengths."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

Make = Callable[[Tensor, int], Tensor]


def by_positions(mask: Tensor, length: int) -> Tensor:
    ends = torch.div(mask.sum(-1) - 1, 2, rounding_mode="floor")
    made = torch.zeros((mask.shape[0], length), dtype=mask.dtype, device=mask.device)
    made[(torch.arange(made.shape[0], device=made.device), ends)] = 1
    return made.flip([-1]).cumsum(-1).flip([-1]).bool()


def by_scatter(mask: Tensor, length: int) -> Tensor:
    ends = torch.div(mask.sum(-1, keepdim=True) - 1, 2, rounding_mode="floor")
    made = mask.new_zeros(mask.shape[0], length)
    made.scatter_(1, ends, 1)
    return made.flip([-1]).cumsum(-1).flip([-1]).bool()


def by_fill(mask: Tensor, length: int) -> Tensor:
    made = torch.ones(mask.shape[0], length, dtype=torch.bool)
    return made.masked_fill_(mask[:, ::2] == 0, False)


def through_a_view(mask: Tensor, length: int) -> Tensor:
    made = torch.zeros(mask.shape[0], length, dtype=torch.long)
    made.view(-1)[:] = mask[:, ::2].flatten()
    return made == 1


class Net(nn.Module):
    """Hidden values are written to before a mask decides."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.make, self.a, self.d = make, nn.Linear(4, 6), nn.Linear(6, 6)
        self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.a(x)[:, ::2]
        h += self.d(h)  # the mask is made after this, as long as what it gives
        keep = self.make(mask, h.shape[1])
        h = h + 1
        h[~keep] = 0
        if not keep.all():
            h = h * keep[..., None]
        out: Tensor = self.c(torch.relu(self.b(h)))
        return out


def padded(*lengths: int, size: int = 6) -> Tensor:
    return (torch.arange(size) < torch.tensor(lengths)[:, None]).long()


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("make", [by_positions, by_scatter, by_fill, through_a_view], ids=lambda m: m.__name__)
def test_other_masks_of_the_model_are_taken(make: Make, mode: str) -> None:
    torch.manual_seed(0)
    model = ft.randomize(Net(make)).eval()
    x = torch.randn(3, 6, 4)
    plan = ft.plan(model, x, padded(6, 4, 6), mode=mode)
    emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert ft.verify(model, emitted, x, padded(6, 4, 6)).passed
    with torch.no_grad():
        for mask in (padded(6, 4, 6), padded(2, 6, 3), padded(6, 6, 6), padded(2, 2, 2)):
            try:
                found = emitted(x, mask)
            except ft.GuardError:
                assert make is through_a_view  # a tensor that is seen through a view is not followed
            else:
                assert torch.equal(model(x, mask), found)
        for size in (8, 10):
            longer = torch.randn(2, size, 4)
            assert torch.equal(model(longer, padded(5, size, size=size)), emitted(longer, padded(5, size, size=size)))


@pytest.mark.parametrize("make", [by_positions, by_scatter, by_fill], ids=lambda m: m.__name__)
def test_nothing_is_lost(make: Make) -> None:
    plan = ft.plan(ft.randomize(Net(make)).eval(), torch.randn(3, 6, 4), padded(6, 4, 6))
    assert not plan.opaque
    assert not [c for c in plan.conditions if c.kind == "data"]
    assert plan.num_free == 12
