"""Positions that only the run knows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

# name -> what is picked from x by y's values, and how many values stay free: of x (8, or 1 for all that may be picked)
# and of y (8; channels that are put in order share one)
PICKED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "channels": (lambda x, y: x[:, y[0, 0, 0].argsort()], 1 + 8),
    "channels behind an ellipsis": (lambda x, y: x[..., y[0, 0, 0].argsort(), :, :], 1 + 8),
    "positions behind an ellipsis": (lambda x, y: x[..., y[0, 0, 0].argsort()], 8 + 8),
    "behind an ellipsis and a new axis": (lambda x, y: x.permute(0, 2, 3, 1)[..., None, y[0, 0, 0].argsort()], 1 + 8),
    "with a new axis": (lambda x, y: x[:, None, :, y[0, 0, 0].argsort()], 8 + 8),
    "two indices": (lambda x, y: x[:, y[0, 0, 0].argsort(), :, y[0, 1, 0].argsort()], 1 + 8),
    "gather": (lambda x, y: x.gather(1, y[:, :3].argsort(1)), 1 + 6),
    "gather positions": (lambda x, y: x.gather(3, y[:, :3].argsort(3)), 8 + 8),
    "index_select": (lambda x, y: x.index_select(-1, y[0, 0, 0].argsort()), 8 + 8),
    "index_select channels from behind": (lambda x, y: x.index_select(-3, y[0, 0, 0].argsort()), 1 + 8),
    "index_select channels": (lambda x, y: x.index_select(dim=1, index=y[0, 0, 0].argsort()), 1 + 8),
    "take_along_dim": (lambda x, y: torch.take_along_dim(x, y[:, :1].argsort(3), 3), 8 + 8),
    "take_along_dim of all": (lambda x, y: torch.take_along_dim(x, y[:, 0].flatten().argsort()).view(2, -1), 1 + 8),
}


@pytest.mark.parametrize("name", PICKED)
def test_what_the_run_picks_shares_a_cob(name: str, check_operation: Callable[..., None]) -> None:
    operation, free = PICKED[name]
    check_operation(operation, full=free, weights=free, streams=2)


def test_what_a_mask_picks_is_pinned(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: x[y > 0].sum().expand(2), full=8, weights=8, streams=2, known=False)  # those of y


class Found(nn.Module):
    """A table of values read by a mask that is known, and by an index that the run finds, along the axis behind it."""

    def __init__(self, dots: bool) -> None:
        super().__init__()
        self.stem, self.head, self.dots = nn.Linear(5, 2 * 2 * 4), nn.Linear(2, 3), dots
        self.register_buffer("mask", torch.tensor([[True, False], [False, True]]))

    def forward(self, x: Tensor) -> Tensor:
        table, at = self.stem(x).view(2, 2, 4), x[:2].argsort()
        return self.head(table[..., at][self.mask, 0] if self.dots else table[self.mask, at])


@pytest.mark.parametrize("dots", [False, True])
def test_a_mask_stands_for_as_many_axes_as_it_has(dots: bool, assert_exact: Callable[..., ft.Plan]) -> None:
    model = ft.randomize(Found(dots).eval())
    for mode in ("full", "weights"):
        plan = ft.plan(model, torch.tensor([1.0, 2.0, 0.0, 0.0, 0.0]), mode=mode)
        network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
        for values in ([1.0, 2.0, 0.5, 0.0, 1.0], [2.0, 1.0, -1.0, 1.0, 0.0]):
            x = torch.tensor(values)
            assert torch.equal(model(x), network(x))
