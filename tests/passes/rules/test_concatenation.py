"""Concatenation and padding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def test_padding_with_another_constant_pins(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x: F.pad(x, (1, 1), value=0.5), full=0, weights=0)
    check_operation(nn.ConstantPad2d(1, -2.0), full=0, weights=0)
    check_operation(nn.ConstantPad2d(1, 0.0), full=8, weights=8)


def test_joining_two_streams_keeps_both(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: torch.cat([y, x], 1), full=16, weights=16, streams=2)
    check_operation(lambda x, y: torch.stack([x, y], 2).flatten(1, 2), full=16, weights=16, streams=2)

    def write(x: Tensor, y: Tensor) -> Tensor:
        out = x.new_zeros(x.shape[0], 16, *x.shape[2:])
        out[:, ::2], out[:, 1::2] = x, y
        return out

    check_operation(write, full=16, weights=16, streams=2)


# name -> what padded channels go through, and how many values stay free of 8
KEEPS_ZERO: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "mean": (lambda x: x.mean(1), 1),
    "sum": (lambda x: x.sum(1), 1),
    "cumsum": (lambda x: x.cumsum(1), 1),
    "var": (lambda x: x.var(1), 1),
    "norm": (lambda x: x.norm(dim=1), 1),
    "amax": (lambda x: x.amax(1), 1),
    "max": (lambda x: x.max(1)[0], 1),
    "avg_pool": (lambda x: F.avg_pool1d(x.flatten(2).mT, 2), 1),
    "max_pool": (lambda x: F.max_pool1d(x.flatten(2).mT, 2), 1),
    "maximum": (lambda x: torch.maximum(x, x.flip(0)), 8),
    "relu": (F.relu, 8),
    "tanh": (torch.tanh, 8),
    "hardtanh": (F.hardtanh, 8),
    "glu": (lambda x: F.glu(x, 2), 8),
    "layer_norm": (lambda x: F.layer_norm(x, x.shape[1:]), 8),
}


@pytest.mark.parametrize("name", KEEPS_ZERO)
def test_what_keeps_zero_asks_nothing_of_padding(name: str, check_operation: Callable[..., None]) -> None:
    """Padded channels fit every CoB, also behind a function that is 0 at 0, or along an axis that shares one."""
    operation, free = KEEPS_ZERO[name]
    check_operation(lambda x: operation(F.pad(x, (0, 0, 0, 0, 2, 3))), full=free)


def test_padding_in_a_part(check_operation: Callable[..., None]) -> None:
    """Zeros in one of several parts."""
    check_operation(lambda x: [torch.tanh(p) for p in F.pad(x, (0, 0, 0, 0, 4, 0)).split(4, 1)], full=8)
    check_operation(lambda x: [torch.tanh(p) for p in F.pad(x, (0, 0, 0, 0, 0, 4)).split(4, 1)], full=8)

    def first(x: Tensor, y: Tensor) -> Tensor:
        return torch.cos(F.pad(x, (0, 0, 0, 0, 4, 0)).split(6, 1)[0]) + y[:, :6]

    check_operation(first, full=8 + 8 - 4 - 2, streams=2)  # 1 is added to four of y's channels, x to two
