"""Equivariant: linear and the same everywhere, so the CoB passes in both modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PASSING: dict[str, Callable[[Tensor], Tensor] | nn.Module] = {
    "identity": nn.Identity(),
    "dropout": nn.Dropout(0.3),
    "F.dropout": lambda x: F.dropout(x, 0.3, False),
    "neg": lambda x: -x,
    "scaled": lambda x: 3.5 * x / 7,
    "contiguous": lambda x: x.contiguous().clone().detach(),
    "float": lambda x: x.double().to(x.dtype),
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "mean all": lambda x: x.mean(-1).sum(2),
    "avg_pool2d": nn.AvgPool2d(2),
    "adaptive": nn.AdaptiveAvgPool2d(1),
    "F.adaptive": lambda x: F.adaptive_avg_pool2d(x, 2),
    "avg_pool1d": lambda x: F.avg_pool1d(x.flatten(2), 2),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "Upsample": nn.Upsample(scale_factor=2),
    "cumsum": lambda x: x.cumsum(-1),
    "diff": lambda x: x.diff(),
    "diff of diff": lambda x: torch.diff(x, 2, 2),
    "radians": lambda x: x.deg2rad() - x.rad2deg(),
}


@pytest.mark.parametrize("name", PASSING)
def test_passing(name: str, check_operation: Callable[..., None]) -> None:
    check_operation(PASSING[name], full=8, weights=8)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.mean(1),
        lambda x: x.sum(),
        lambda x: x.mean((1, 2, 3)),
        lambda x: x.cumsum(1),
        lambda x: x.diff(dim=1),
    ],
)
def test_mixing_channels(operation: Callable[[Tensor], Tensor], check_operation: Callable[..., None]) -> None:
    def flat(x: Tensor) -> Tensor:
        return operation(x).expand(x.shape[0]) if operation(x).ndim == 0 else operation(x)

    check_operation(flat, full=1, weights=1)


@pytest.mark.parametrize("dim", [(), []], ids=str)
@pytest.mark.parametrize("name", ["sum", "mean", "var", "std", "amax", "norm"])
def test_no_axes_are_all(name: str, dim: Any, check_operation: Callable[..., None]) -> None:
    """As None; for `var` and `norm` in torch too."""

    def flat(x: Tensor) -> Tensor:
        found = torch.linalg.vector_norm(x, dim=dim) if name == "norm" else getattr(x, name)(dim)
        return found.expand(x.shape[0])

    check_operation(flat, full=1)


@pytest.mark.parametrize("name", ["var", "std"])
def test_the_correction_in_the_place_of_the_axes(name: str, check_operation: Callable[..., None]) -> None:
    """`x.var(False)` is over all axes."""
    check_operation(lambda x: getattr(x, name)(False).expand(x.shape[0]), full=1)


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "std"])
def test_arguments_named_as_in_numpy(name: str, check_operation: Callable[..., None]) -> None:
    check_operation(lambda x: getattr(torch, name)(x, axis=(2, 3), keepdims=True), full=8)


def test_a_type_alone_is_taken(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: x.type_as(y), full=16, weights=16, streams=2)


def test_complex_numbers_pass(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x: x.to(torch.complex64 if x.dtype == torch.float32 else torch.complex128).abs(), full=8)


def test_rounding_to_integers_pins(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x: (x * 8).long().to(x.dtype), full=0, weights=0)


@pytest.mark.parametrize("operation", [lambda x: x.sum(2, dtype=torch.long), lambda x: x.cumsum(1, dtype=torch.int32)])
def test_sums_of_integers_pin(operation: Callable[[Tensor], Tensor], check_operation: Callable[..., None]) -> None:
    """The terms are cast before they are added."""
    check_operation(lambda x: operation(x * 8).to(x.dtype), full=0, weights=0, known=False)


POOLS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "avg_pool3d": (lambda x: F.avg_pool3d(x, (1, 2, 2)), 1),  # channels are positions
    "avg_pool3d of channels": (lambda x: F.avg_pool3d(x[:, :, None], (1, 2, 2)), 8),
    "avg_pool2d of channels": (lambda x: F.avg_pool2d(x.flatten(2)[:, None], 2), 1),
    "max_pool3d": (lambda x: F.max_pool3d(x, (1, 2, 2)), 1),
    "max_pool3d of channels": (lambda x: F.max_pool3d(x[:, :, None], (1, 2, 2)), 8),
    "max_pool2d of channels": (lambda x: F.max_pool2d(x.flatten(2)[:, None], 2), 1),
    "columns": (lambda x: F.max_pool2d(x.flatten(2).mT[:, None], (2, 1)), 1),
    "interpolate columns": (lambda x: F.interpolate(x.transpose(1, 2), scale_factor=2), 1),
    "fold": (lambda x: F.fold(F.unfold(x, 2), (4, 4), 2), 8),
    "fold of channels": (lambda x: F.fold(x.flatten(2)[:, :, :9], (4, 4), 2), 2),
    "fold of positions": (lambda x: F.fold(x.flatten(2).mT[:, :, :4], (2, 8), (1, 4), stride=(1, 4)), None),
}  # fmt: skip


@pytest.mark.parametrize("name", POOLS)
def test_pools_of_every_rank(name: str, check_operation: Callable[..., None]) -> None:
    operation, free = POOLS[name]
    check_operation(operation, full=free, weights=free)


def test_where_to_sample_is_pinned(check_operation: Callable[..., None]) -> None:
    def sampled(x: Tensor, y: Tensor) -> Tensor:
        return F.grid_sample(x, y[:, :2].permute(0, 2, 3, 1), align_corners=False)

    check_operation(sampled, full=8 + 6, weights=8 + 6, streams=2)
    check_operation(lambda x, y: sampled(x.transpose(1, 2), y), full=1 + 6, weights=1 + 6, streams=2)


def at(axes: int, y: Tensor, window: int | tuple[int, ...] = 2) -> Tensor:
    """Where the largest of each window are."""
    found: Tensor = getattr(F, f"max_pool{axes}d")(y, window, return_indices=True)[1]
    return found


# x goes where y has its largest: along positions (8 channels of each are free), or along channels, of which x has four.
UNPOOLED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "1d": (lambda x, y: F.max_unpool1d(x.flatten(2)[..., :8], at(1, y.flatten(2)), 2), 16),
    "1d of channels": (lambda x, y: F.max_unpool1d(x.flatten(2).mT[..., :4], at(1, y.flatten(2).mT), 2), 1 + 4 + 1),
    "2d": (lambda x, y: F.max_unpool2d(x[..., :2, :2], at(2, y), 2), 16),
    "2d of channels": (
        lambda x, y: F.max_unpool2d(x.flatten(2)[:, None, :4, :8], at(2, y.flatten(2)[:, None]), 2),
        1 + 4 + 1,
    ),
    "3d": (lambda x, y: F.max_unpool3d(x[:, :, None, :2, :2], at(3, y[:, :, None], (1, 2, 2)), (1, 2, 2)), 16),
    "3d of channels": (lambda x, y: F.max_unpool3d(x[:, None, :4, :2, :2], at(3, y[:, None]), 2), 1 + 4 + 1),
}


@pytest.mark.parametrize("name", UNPOOLED)
def test_unpooling(name: str, check_operation: Callable[..., None]) -> None:
    operation, free = UNPOOLED[name]
    check_operation(operation, full=free, weights=free, streams=2)
