"""Bilinear: products of CoBs; what is contracted has a constant product."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft

PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mul": lambda x, y: x * y,
    "imul": lambda x, y: x.mul_(y),
    "div": lambda x, y: x / y,
    "divide in place": lambda x, y: x.div_(y),
    "reciprocal": lambda x, y: x * y.reciprocal(),
    "number over": lambda x, y: x * (2.0 / y),
    "square": lambda x, y: x * y.square() / y,
    "pow": lambda x, y: x**3 / y**2,
    "three": lambda x, y: x * y * x * y * x * y,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_pass(name: str, check_operation: Callable[..., None]) -> None:
    check_operation(PRODUCTS[name], full=16, weights=16, streams=2)


def test_products_equal_to_a_third(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y, z: z + x * y, full=16, weights=16, streams=3)
    check_operation(lambda x, y, z: z + x / y, full=16, weights=16, streams=3)
    check_operation(lambda x, y, z: x * y + y * z, full=16, weights=16, streams=3)


def test_a_square_added_to_its_root_is_pinned(check_operation: Callable[..., None]) -> None:
    """t**2 = t."""
    check_operation(lambda x: x + x * x, full=0, weights=0)


def test_a_square_keeps_its_sign(check_operation: Callable[..., None]) -> None:
    """1 + t**2: the sign is free."""
    check_operation(lambda x: 1 + x.square(), full=8, weights=8)


CONTRACTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    # x * y = one number a contracted axis: 8 of x, and one for the product (the mean over positions is free)
    "dot": (lambda x, y: torch.einsum("bchw,bchw->b", x, y), 8 + 1),
    "dot positions": (lambda x, y: torch.einsum("bchw,bchw->bc", x, y), 16),
    "gram": (lambda x, y: x.flatten(2) @ y.flatten(2).transpose(1, 2), 16),
    "matmul": (lambda x, y: torch.matmul(x.flatten(2).transpose(1, 2), y.flatten(2)), 8 + 1),
    "bmm": (lambda x, y: torch.bmm(x.flatten(2).transpose(1, 2), y.flatten(2)), 8 + 1),
    "einsum": (lambda x, y: torch.einsum("bchw,bdhw->bcd", x, y), 16),
    "einsum ellipsis": (lambda x, y: torch.einsum("bc...,bd...->b...cd", x, y), 16),
    "outer": (lambda x, y: x.mean((2, 3))[:, :, None] * y.mean((2, 3))[:, None], 16),
}


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contractions(name: str, check_operation: Callable[..., None]) -> None:
    operation, free = CONTRACTIONS[name]
    check_operation(operation, full=free, weights=free, streams=2)


def heads(x: Tensor, n: int = 2) -> Tensor:
    return x.flatten(2).unflatten(1, (n, -1)).transpose(2, 3)


def test_attention(check_operation: Callable[..., None]) -> None:
    """q = 1 / k by head and dimension; v is free."""
    check_operation(lambda q, k, v: F.scaled_dot_product_attention(heads(q), heads(k), heads(v)), full=16, weights=16,
                    streams=3)  # fmt: skip
    check_operation(
        lambda q, k, v: ((heads(q) @ heads(k).mT) * 0.5).softmax(-1) @ heads(v), full=16, weights=16, streams=3
    )
    check_operation(
        lambda q, k, v: F.scaled_dot_product_attention(heads(q), heads(k), heads(v), is_causal=True, scale=0.1),
        full=16, weights=16, streams=3,
    )  # fmt: skip


def test_attention_masks(check_operation: Callable[..., None]) -> None:
    mask = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(heads(q), heads(k), heads(v), mask.to(q.dtype))

    def boolean(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(heads(q), heads(k), heads(v), attn_mask=mask > 0)

    check_operation(masked, full=16, streams=3)
    check_operation(boolean, full=16, streams=3)


def test_talking_heads(check_operation: Callable[..., None]) -> None:
    """Heads mixed after the softmax: v's CoB must be one over heads."""
    mix = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (heads(q) @ heads(k).mT).softmax(-1)
        return torch.einsum("bhqk,hg->bgqk", weights, mix.to(q.dtype)) @ heads(v)

    check_operation(attend, full=16, weights=16, streams=3)


def test_rounded_division_pins(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: torch.div(x, y, rounding_mode="floor"), full=0, weights=0, streams=2, known=False)


def test_heads_that_share_keys_and_values(assert_exact: Callable[..., ft.Plan]) -> None:
    """4 query heads on 2 of keys and values, 3 dimensions each: q = 1 / k for 2 x 3 values, and v for 2 x 3."""

    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = nn.Linear(8, 12), nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (f(x).unflatten(-1, (-1, 3)).transpose(1, 2) for f in (self.q, self.k, self.v))
            x = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            return self.o(x.transpose(1, 2).flatten(2))

    plan = assert_exact(Grouped(), torch.randn(2, 5, 8))
    assert plan.num_free == 6 + 6
    assert not plan.opaque


def test_a_gram_matrix_keeps_one_value(check_operation: Callable[..., None]) -> None:
    """x x^T contracts the channels: they share one CoB up to a sign, and its square is the output's."""
    check_operation(lambda x: x.flatten(2).mT @ x.flatten(2), full=1, weights=1)
