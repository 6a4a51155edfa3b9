"""Pointwise: free in full mode, pinned in weights mode."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FUNCTIONS: dict[str, Callable[[Tensor], Tensor] | nn.Module] = {
    "gelu": F.gelu,
    "gelu tanh": nn.GELU("tanh"),
    "silu": F.silu,
    "SiLU": nn.SiLU(),
    "SiLU inplace": nn.SiLU(inplace=True),
    "sigmoid": torch.sigmoid,
    "sigmoid method": lambda x: x.sigmoid(),
    "sigmoid_": lambda x: x.clone().sigmoid_(),
    "hardswish": F.hardswish,
    "hardsigmoid": nn.Hardsigmoid(),
    "relu6": F.relu6,
    "ReLU6": nn.ReLU6(),
    "elu": lambda x: F.elu(x, 0.5),
    "ELU": nn.ELU(0.7),
    "selu": F.selu,
    "celu": nn.CELU(0.3),
    "mish": F.mish,
    "softplus": nn.Softplus(2.0, 3.0),
    "logsigmoid": F.logsigmoid,
    "exp": torch.exp,
    "expm1": lambda x: x.expm1(),
    "cos": torch.cos,
    "threshold": nn.Threshold(0.1, 0.3),
    "clamp": lambda x: x.clamp(min=-0.1, max=0.4),
    "clamp low": lambda x: torch.clamp(x, min=0.2),
    "floor": torch.floor,
    "square root": lambda x: (x.abs() + 0).pow(0.5),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "clamp_min": lambda x: x.clamp_min(0.2),
    "clamp_max": lambda x: torch.clamp_max(x, 0.1),
    "tan": torch.tan,
    "nan_to_num": lambda x: x.nan_to_num(0.5),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str, check_operation: Callable[..., None]) -> None:
    weights = 8 if name == "quick gelu" else 0
    check_operation(FUNCTIONS[name], full=8, weights=None if name == "quick gelu" else weights)


def test_structural_zeros_are_settled(check_operation: Callable[..., None]) -> None:
    """cos(0) is 1: what is padded is no longer zero."""
    check_operation(lambda x: torch.cos(F.pad(x, (0, 0, 0, 0, 1, 1))), full=8, weights=0)

    def ten(x: Tensor) -> Tensor:
        return torch.cat([x, x[:, 3:5]], 1)

    # x_3 is met by y_4, and so on; what is beside padding is pinned: y_0 and y_4
    check_operation(lambda x, y: torch.cos(F.pad(x, (0, 0, 0, 0, 1, 1))) + ten(y), full=None, streams=2)


@pytest.mark.parametrize(("operation", "free"), [
    (nn.GLU(1), 8), (lambda x: F.glu(x, 2), 8),
    (lambda x: F.glu(x[:, :2], 1), 8),
    (lambda x: F.glu(x.mean((2, 3))), 8), (lambda x: F.glu(x.flatten(2)), 8),
    (lambda x: F.glu(x * x.mean(1, keepdim=True), 1), 1), (lambda x: F.glu(x * x.roll(1, 1), 3), 8),
])  # fmt: skip
def test_a_gate_sees_its_original_values(
    operation: Callable[[Tensor], Tensor], free: int, check_operation: Callable[..., None]
) -> None:
    """The other half passes; also along an axis where all have one CoB."""
    check_operation(operation, full=free)


def test_the_gate_is_pinned_in_weights_mode(check_operation: Callable[..., None]) -> None:
    check_operation(nn.GLU(1), full=8, weights=4)
    check_operation(nn.GLU(2), full=8, weights=0)
