"""Odd: free in full mode, a sign in weights mode."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.domain.solution import UNIT

FUNCTIONS: dict[str, Callable[[Tensor], Tensor] | nn.Module] = {
    "tanh": torch.tanh,
    "tanh_": lambda x: x.tanh_(),
    "Tanh": nn.Tanh(),
    "erf": torch.erf,
    "sin": torch.sin,
    "atan": torch.atan,
    "asinh": torch.asinh,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "Softshrink": nn.Softshrink(0.1),
    "hardshrink": lambda x: F.hardshrink(x, 0.2),
    "Hardtanh": nn.Hardtanh(-0.3, 0.3),
    "clamp": lambda x: x.clamp(-0.2, 0.2),
    "sign": torch.sign,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str, check_operation: Callable[..., None]) -> None:
    check_operation(FUNCTIONS[name], full=8, weights=8)


def test_bounds_may_be_tensors(check_operation: Callable[..., None]) -> None:
    low, high = torch.tensor(-0.2), torch.tensor(float("inf"))
    check_operation(lambda x: x.clamp(low, high), full=8, weights=0)


def test_bounds_in_the_wrong_order_are_not_odd(check_operation: Callable[..., None]) -> None:
    """torch gives the upper bound everywhere."""
    check_operation(lambda x: x * x.clamp(0.2, -0.2), full=8, weights=0)


def test_weights_mode_allows_signs_only() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    assert ft.plan(model, torch.randn(2, 3), mode="weights").solution.allows.tolist() == [UNIT] * 5


def test_hardtanh_that_is_not_symmetric_is_not_odd(check_operation: Callable[..., None]) -> None:
    check_operation(nn.Hardtanh(-0.3, 0.5), full=8, weights=0)
    check_operation(nn.Hardtanh(0.0, 0.5), full=8, weights=0)
    check_operation(lambda x: x + F.hardtanh(x, -0.0, 0.0), full=8, weights=8)  # zero is odd


def test_activations_that_bound_are_pinned(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: x.clamp(min=y), full=8, weights=0, streams=2)


def test_a_sign_needs_no_other_operation() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    plan = ft.plan(model, torch.randn(2, 3))
    cob = plan.sample(seed=0)
    cob.values[:] = -1
    assert isinstance(plan.rewrite(cob).get_submodule("1"), nn.Tanh)
