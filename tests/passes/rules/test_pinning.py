"""What pins: operations that depend on the scale, and every operation that no rule knows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft

PINNING: dict[str, Callable[[Tensor], Tensor] | nn.Module] = {
    "softmax": lambda x: x.softmax(1),
    "Softmax": nn.Softmax(1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "logsumexp": lambda x: torch.logsumexp(x, 1),
    "comparison": lambda x: (x > 0.1).to(x.dtype),
    "distance": lambda x: F.cosine_similarity(x, x.flip(1), 1),
    "loss": lambda x: F.mse_loss(x, x.flip(1), reduction="none"),
    "mod": lambda x: x % 0.3,
    "unknown": lambda x: torch.special.bessel_j0(x),
    "unknown linear algebra": lambda x: torch.linalg.matrix_exp(x),
    "fft": lambda x: torch.fft.fft2(x).real,
    "prod": lambda x: x.prod(1),
    "std": lambda x: x.std(1),
    "median": lambda x: x.median(1).values,
    "AlphaDropout": nn.AlphaDropout(0.2),
    "Fold": nn.Sequential(nn.Unfold(2), nn.Fold((4, 4), 2)),
    "LPPool2d": nn.LPPool2d(2, 2),
    "cdist": lambda x: torch.cdist(x.flatten(2), x.flatten(2)),
    "grid_sample": lambda x: F.grid_sample(x, torch.full((2, 3, 3, 2), 0.1, dtype=x.dtype), align_corners=False),
}


@pytest.mark.parametrize("name", PINNING)
def test_sound(name: str, check_operation: Callable[..., None]) -> None:
    check_operation(PINNING[name], full=None, known=False)


REASONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "the quotient is rounded": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "an exponent has no CoB": lambda x, y: (x.abs() + 1) ** y,
    "an exponent has no CoB ": lambda x, y: torch.pow(2.0, x) * y,
    "an exponent has no CoB  ": lambda x, y: torch.Tensor.__rpow__(x, 2.0) * y,
    "its bounds have more elements than its input": lambda x, y: x[:, :1].clamp(max=y),
    "another tensor shapes this activation": lambda x, y: torch.xlogy(x.abs(), y.abs() + 1),
    "another tensor shapes this activation ": lambda x, y: torch.xlogy(x.abs(), other=y.abs() + 1),
    "its condition is not one boolean tensor": lambda x, y: torch.where(x > 0, y > 0, x),
    "this einsum repeats an index in one operand": lambda x, y: torch.einsum("bcii->bc", x) * y.sum(),
    "it counts what is not zero": lambda x, y: torch.linalg.vector_norm(x, 0, 1) * y[:, 0],
    "'softmax' depends on its scale": lambda x, y: torch.softmax(input=x, dim=1) * y,
    "it is a product of many": lambda x, y: x.prod(1) * y[:, 0],
    "something is put before or behind it": lambda x, y: x.diff(prepend=y[..., :1]),
    "something is put before or behind": lambda x, y: x.diff(append=y[..., :1]),
    "a complex power goes by way of logarithms": lambda x, y: (torch.complex(x, x) ** 3).real + y,
    "it reads the same bytes as another type": lambda x, y: x.view(torch.int32).clamp(0, 1) * y,
}


@pytest.mark.parametrize("why", REASONS)
def test_what_pins_says_why(why: str) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return REASONS[why](self.a(x), self.b(x))

    plan = ft.plan(Two(), torch.randn(2, 3, 4, 4))
    said = [o.why for o in plan.opaque] + [g.why for g in plan.groups]
    assert any(why.strip() in s for s in said), said


def test_an_unknown_operation_is_reported_with_its_reason() -> None:
    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(5, 7), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.relu(self.b(torch.special.bessel_j0(self.a(x)))))

    plan = ft.plan(Unknown(), torch.randn(2, 3))
    assert plan.num_free == 7
    assert len(plan.opaque) == 1
    assert "bessel_j0" in plan.opaque[0].node
    assert "no rule" in plan.opaque[0].why
    assert any("no rule" in g.why for g in plan.groups if g.kind == "pinned")
