"""Positively homogeneous: free in full mode, positive in weights mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.domain.solution import POSITIVE

FUNCTIONS: dict[str, Callable[[Tensor], Any] | nn.Module] = {
    "relu": torch.relu,
    "F.relu": F.relu,
    "relu_": lambda x: x.relu_(),
    "ReLU inplace": nn.ReLU(inplace=True),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "LeakyReLU": nn.LeakyReLU(0.3),
    "PReLU": nn.PReLU(),
    "PReLU channels": nn.PReLU(8),
    "abs": torch.abs,
    "MaxPool2d": nn.MaxPool2d(2),
    "max_pool2d overlapping": lambda x: F.max_pool2d(x, 3, 1, 1),
    "max_pool2d indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "MaxPool2d indices": lambda x: nn.MaxPool2d(2, return_indices=True)(x)[0],
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d(2),
    "max_pool1d": lambda x: F.max_pool1d(x.flatten(2), 2),
    "amax": lambda x: x.amax((2, 3)),
    "amin": lambda x: x.amin(-1, keepdim=True),
    "median": lambda x: x.median(-1)[0],
    "median of positions": lambda x: x.flatten(2).nanmedian(2, keepdim=True).values,
    "cummax": lambda x: x.cummax(2).values,
    "cummin": lambda x: torch.cummin(x, -1)[0],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str, check_operation: Callable[..., None]) -> None:
    check_operation(FUNCTIONS[name], full=8, weights=8)


def test_weights_mode_allows_positive_values_only() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    plan = ft.plan(model, torch.randn(2, 3), mode="weights")
    assert plan.solution.allows.tolist() == [POSITIVE] * 5


def test_max_over_channels_joins_them(check_operation: Callable[..., None]) -> None:
    for operation in (
        lambda x: x.amax(1),
        lambda x: x.median(1)[0],
        lambda x: x - x.median(),
        lambda x: x.cummin(1)[0],
    ):
        check_operation(operation, full=1, weights=1)


def test_other_spellings_of_max_are_sound(check_operation: Callable[..., None]) -> None:
    """`max(dim)` gives values and indices."""
    check_operation(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), full=None, known=False)
    check_operation(lambda x: x.max(1)[0], full=None, known=False)
    check_operation(lambda x: x.max(-1).values, full=None, known=False)
    check_operation(lambda x: x - x.max(), full=None, known=False)


NORMS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "channels": (lambda x: x.norm(dim=1), 1),
    "positions": (lambda x: x.norm(dim=(2, 3)), 8),
    "axis kept": (lambda x: x * x.norm(dim=-1, keepdim=True), 8),
    "all": (lambda x: x * x.norm(), 1),
    "1": (lambda x: torch.linalg.vector_norm(x, 1, (2, 3)), 8),
    "inf": (lambda x: torch.linalg.norm(x, ord=float("inf"), dim=-1), 8),
    "std": (lambda x: x.std((2, 3)), 8),
    "std, axis kept": (lambda x: x * x.std(3, keepdim=True), 8),
    "std, positional": (lambda x: x * x.std((2, 3), False, True), 8),
    "std of channels": (lambda x: x.std(1), 1),
}


@pytest.mark.parametrize("name", NORMS)
def test_lengths(name: str, check_operation: Callable[..., None]) -> None:
    operation, free = NORMS[name]
    check_operation(operation, full=free, weights=free)


def test_the_larger_of_two(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: torch.max(x, y), full=8, weights=8, streams=2)
    check_operation(lambda x, y: torch.min(x, other=y), full=8, weights=8, streams=2)
    check_operation(lambda x, y: x.min(y), full=8, weights=8, streams=2)


@pytest.mark.parametrize(
    "length",
    [lambda x: x.norm(3, (2, 3)), lambda x: torch.linalg.vector_norm(x, ord=4, dim=(2, 3)), lambda x: x.norm(0.5, 3)],
)
def test_other_roots_are_wrapped_or_pinned(
    length: Callable[[Tensor], Tensor], check_operation: Callable[..., None]
) -> None:
    """A power of two within a cube root or a fourth root comes out with another rounding."""
    check_operation(length, full=8, weights=0)


@pytest.mark.parametrize("count", [
    lambda x: x.norm(0, 1), lambda x: torch.linalg.vector_norm(x, 0, 1),
    lambda x: torch.linalg.vector_norm(x, ord=0, dim=1),
])  # fmt: skip
def test_a_norm_that_counts_pins(count: Callable[[Tensor], Tensor], check_operation: Callable[..., None]) -> None:
    """p = 0 is the number of elements that are not zero."""
    check_operation(lambda x: x * count(F.relu(x))[:, None], full=0, weights=0, known=False)
