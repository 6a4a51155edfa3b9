"""Order: a positive CoB that all share leaves it as it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

# name -> the operation, and how many of 8 channels stay free
ONE: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "above 0": (lambda x: x * (x > 0), 8),
    "0 below": (lambda x: x * torch.lt(torch.zeros(()), x) + x * (x >= 0.0), 8),
    "not 0": (lambda x: x * (x != 0) + x * x.eq(0), 8),
    "equal to its largest": (lambda x: x * (x == x.amax((2, 3), keepdim=True)), 8),
    "above a number": (lambda x: x * (x > 0.1), 0),
    "equal to a number": (lambda x: x * (x == 1), 0),
    "below its mean": (lambda x: x.where(x < x.mean(3, keepdim=True), 0.0), 8),
    "below the channels' mean": (lambda x: x.where(x.le(x.mean(1, keepdim=True)), 0.0), 1),
    "argmax of channels": (lambda x: x.gather(1, x.argmax(1, keepdim=True)), 1),
    "argmin of positions": (lambda x: x.gather(3, x.argmin(-1, keepdim=True)), 8),
    "argmax of all": (lambda x: x + x.flatten()[x.argmax()], 1),
    "argsort": (lambda x: x.gather(2, x.argsort(2, descending=True)), 8),
    "argsort, stable": (lambda x: x.gather(1, torch.argsort(x, dim=1, stable=True)), 1),
    "sort": (lambda x: x.sort(3)[0], 8),
    "sort, stable": (lambda x: torch.sort(x, stable=True, dim=1).values, 1),
    "topk": (lambda x: x.topk(2, 3).values, 8),
    "topk of channels": (lambda x: torch.topk(x, k=3, dim=1, largest=False)[0], 1),
    "kthvalue": (lambda x: x.kthvalue(2, 3).values, 8),
    "kthvalue of channels": (lambda x: x.kthvalue(2, dim=1, keepdim=True)[0], 1),
    "quantile": (lambda x: x.quantile(0.4, 3), 8),
    "quantile of channels": (lambda x: torch.nanquantile(x, 0.9, dim=1, keepdim=True, interpolation="lower"), 1),
    "quantile of all": (lambda x: x + x.quantile(0.5), 1),
    "mode": (lambda x: x.mode(3).values + x.mode(-1)[0], 8),
    "step": (lambda x: x * torch.heaviside(x, x.new_ones(())), 8),
    "any": (lambda x: x * (x.any(1, keepdim=True) & x.logical_not().logical_not()), 8),
    "how many": (
        lambda x: (
            x
            * x.count_nonzero(
                (2, 3),
            )[..., None, None]
        ),
        8,
    ),
}


@pytest.mark.parametrize("name", ONE)
def test_of_one(name: str, check_operation: Callable[..., None]) -> None:
    operation, free = ONE[name]
    check_operation(operation, full=free, weights=free)


def test_what_is_compared_shares_a_cob(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: torch.where(x > y, x, y), full=8, weights=8, streams=2)
    check_operation(lambda x, y: x * (x == y) + x, full=8, weights=8, streams=2)
    check_operation(lambda x, y: x * (y > 0), full=16, weights=16, streams=2)


def test_what_is_no_value_is_pinned(check_operation: Callable[..., None]) -> None:
    """Which quantile, and what stands between 0 and 1."""
    several = torch.tensor([0.25, 0.75])
    check_operation(lambda x: x.quantile(several.to(x.dtype), 3)[1], full=8, weights=8)
    check_operation(lambda x: x.quantile(several.to(x.dtype), 1).sum(0), full=1, weights=1)
    check_operation(lambda x, y: x.quantile(y.abs().amin() / y.abs().amax(), 3), full=9, weights=9, streams=2)
    check_operation(lambda x, y: x.quantile(y.abs().amin() / (y.abs().amax() + 1), 3), full=9, weights=8, streams=2)
    check_operation(lambda x, y: x * torch.heaviside(x.relu(), y), full=8, weights=8, streams=2)


@pytest.mark.parametrize(
    ("operation", "why"),
    [
        (lambda x: x * (x > x.amax().item() / 2), "a number is made of its values"),
        (lambda x: x * (x.amax().item() / 2 < x), "a number is made of its values"),
        (lambda x: x * (x > 1), "it is compared with a number"),
    ],
)
def test_compared_with_a_number(
    operation: Callable[[Tensor], Tensor], why: str, check_operation: Callable[..., None]
) -> None:
    """One that is made of its values, too: what that is made of keeps them."""

    class Compares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(operation(self.a(x)))

    check_operation(operation, full=0, weights=0, known=False)
    plan = ft.plan(Compares().eval(), torch.randn(2, 3))
    assert any(why in group.why for group in plan.groups)


def test_a_negative_cob_is_not_allowed() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.b(h * (h > 0))

    plan = ft.plan(Masked(), torch.randn(2, 3))
    assert [group.allows for group in plan.groups if group.kind == "free"] == ["positive"]
