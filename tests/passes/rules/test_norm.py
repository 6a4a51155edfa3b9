"""Norms: wrapped input, free output; in weights mode the input is pinned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft


class ChannelsLast(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1))


# name -> norm, free values with and without teleported operations (the stem's 8, and 8 of the affine parameters)
NORMS: dict[str, tuple[Callable[[], nn.Module] | Callable[[Tensor], Tensor], int, int]] = {
    "LayerNorm": (lambda: ChannelsLast(nn.LayerNorm(8)), 16, 8),
    "LayerNorm no bias": (lambda: ChannelsLast(nn.LayerNorm(8, bias=False)), 16, 8),
    "LayerNorm plain": (lambda: ChannelsLast(nn.LayerNorm(8, elementwise_affine=False)), 8, 0),
    "RMSNorm": (lambda: ChannelsLast(nn.RMSNorm(8)), 16, 8),
    "GroupNorm": (lambda: nn.GroupNorm(4, 8), 16, 8),
    "GroupNorm 1": (lambda: nn.GroupNorm(1, 8), 16, 8),
    "GroupNorm plain": (lambda: nn.GroupNorm(2, 8, affine=False), 8, 0),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(8, affine=True), 16, 8),
    "InstanceNorm2d plain": (lambda: nn.InstanceNorm2d(8), 8, 0),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(3), 8, 0),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(8), 8, 8),
    "BatchNorm2d plain": (lambda: nn.BatchNorm2d(8, affine=False), 0, 0),
    "BatchNorm2d untracked": (lambda: nn.BatchNorm2d(8, track_running_stats=False), 8, 8),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(8), 8, 8),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms(name: str, check_operation: Callable[..., None]) -> None:
    build, full, weights = NORMS[name]
    check_operation(build(), full=full, weights=weights, norm=True)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "normalize": lambda x: F.normalize(x, dim=1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "group_norm": lambda x: F.group_norm(x, 2),
    "instance_norm": lambda x: F.instance_norm(x),
    "rms_norm": lambda x: F.rms_norm(x, (4,)),
    "batch_norm of the batch": lambda x: F.batch_norm(x, None, None, training=True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str, check_operation: Callable[..., None]) -> None:
    check_operation(FUNCTIONS[name], full=8, weights=0, norm=True)


class ByHand(nn.Module):
    """(x - mean) / sqrt(var + eps) from primitive operations: sound, however it is spelled."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return self.weight * centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()


def test_by_hand(check_operation: Callable[..., None]) -> None:
    check_operation(ByHand(), full=None, known=False)
    check_operation(lambda x: x / x.norm(dim=1, keepdim=True), full=None, known=False)
    check_operation(lambda x: (x - x.mean()) / x.std(), full=None, known=False)
    check_operation(lambda x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True), full=None, known=False)


@pytest.mark.parametrize(("norm_stats", "free"), [("fixed", 8), ("rescaled", 16), ("wrapped", 16)])
def test_norm_stats(norm_stats: str, free: int) -> None:
    model = ft.randomize(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval())
    x = torch.randn(2, 3, 4, 4)
    plan = ft.plan(model, x, norm_stats=norm_stats)
    assert plan.num_free == free
    scales = plan.scales(plan.sample(0.9, seed=0))
    assert ("1.running_mean" in scales) == (norm_stats == "rescaled")
    assert "1.running_var" not in scales
    assert {"1.weight", "1.bias"} <= scales.keys()


def test_one_dimension_and_three() -> None:
    shapes = (4, 3), (4, 3, 5), (2, 3, 2, 2, 2)
    for norm, shape in zip((nn.BatchNorm1d(8), nn.BatchNorm1d(8), nn.BatchNorm3d(8)), shapes, strict=True):
        stem = nn.Linear(3, 8) if len(shape) == 2 else (nn.Conv1d if len(shape) == 3 else nn.Conv3d)(3, 8, 1)
        head = nn.Linear(8, 2) if len(shape) == 2 else (nn.Conv1d if len(shape) == 3 else nn.Conv3d)(8, 2, 1)
        model = ft.randomize(nn.Sequential(stem, norm, nn.ReLU(), head).eval())
        x = torch.randn(shape)
        for norm_stats, free in (("fixed", 8), ("rescaled", 16), ("wrapped", 16)):
            plan = ft.plan(model, x, norm_stats=norm_stats)
            assert plan.num_free == free
            network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
            assert ft.verify(model, network, x).bitwise_equal


@pytest.mark.parametrize("dim", [0, 1])
def test_weight_norm(dim: int, assert_exact: Callable[..., ft.Plan]) -> None:
    """Its length along `dim` is free; the direction, and so what goes in, stays."""
    first = nn.utils.parametrizations.weight_norm(nn.Linear(6, 7), dim=dim)
    plan = assert_exact(nn.Sequential(first, nn.ReLU(), nn.Linear(7, 3)), torch.randn(2, 6), at_least=0)
    assert plan.num_free == (7 if dim == 0 else 1)  # else all outputs share one: what goes in is pinned
    assert not plan.opaque


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_batch_norm_without_a_gamma_passes_its_input_when_rescaled(
    mode: str, assert_exact: Callable[..., ft.Plan]
) -> None:
    """Nothing divides the input's CoB away again: the output has it too."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False), nn.Flatten(), nn.Linear(128, 3))
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert assert_exact(model, x, mode=mode, norm_stats="rescaled").num_free == 8


def test_statistics_given_to_the_function(check_operation: Callable[..., None]) -> None:
    """F.batch_norm with constants for statistics, and a gamma of its own."""

    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
            self.register_buffer("running_mean", torch.randn(8))
            self.register_buffer("running_var", torch.rand(8) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)

    check_operation(Given(), full=None, norm=True, known=False)


def test_a_bias_alone(check_operation: Callable[..., None]) -> None:
    """Without a gamma a norm's output has the CoB 1, and what is added to it too."""

    def normed(x: Tensor, y: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), (8,), None, y.mean((0, 2, 3)))

    check_operation(normed, full=8, weights=0, streams=2)


class Stats(nn.Module):
    """F.batch_norm with buffers and a bias."""

    def __init__(self, training: bool, scale: bool) -> None:
        super().__init__()
        self.batch, self.bias = training, nn.Parameter(torch.randn(8))
        self.weight = nn.Parameter(torch.randn(8)) if scale else None
        self.register_buffer("mean", torch.randn(8))
        self.register_buffer("var", torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        mean, var = (self.mean.clone(), self.var.clone()) if self.batch else (self.mean, self.var)
        return F.batch_norm(x, mean, var, self.weight, self.bias, training=self.batch)


@pytest.mark.parametrize(("training", "scale", "norm_stats", "free"), [
    (False, True, "fixed", 16), (False, True, "rescaled", 16), (False, True, "wrapped", 16),
    (False, False, "fixed", 8), (False, False, "rescaled", 8), (False, False, "wrapped", 8),
    (True, True, "fixed", 16), (True, True, "rescaled", 16), (True, False, "rescaled", 8),
])  # fmt: skip
def test_batch_norm_as_a_function(
    training: bool, scale: bool, norm_stats: str, free: int, assert_exact: Callable[..., ft.Plan]
) -> None:
    """Frozen statistics are rescaled: without a gamma the output keeps the CoB of the input; and its own statistics."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Stats(training, scale), nn.Flatten(), nn.Linear(128, 3))
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    plan = assert_exact(model, x, norm_stats=norm_stats, at_least=free)
    assert plan.num_free == free and not plan.opaque


def test_a_norm_of_the_batch_with_a_gamma(check_operation: Callable[..., None]) -> None:
    class Batch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))

        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True)

    check_operation(Batch(), full=16, weights=8, norm=True)


def test_a_batch_norm_of_zeros(check_operation: Callable[..., None]) -> None:
    """They are no longer zero behind it."""

    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(16, affine=False)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            first, second = self.norm(torch.cat([x, torch.zeros_like(x)], 1)).chunk(2, 1)
            return first + (second + y)

    check_operation(Normalised(), full=None, weights=None, streams=2, norm=True)


class Alone(nn.Module):
    """A norm of each channel of one image that is in no batch: [channels, *positions]."""

    def __init__(self, spatial: int, tracked: bool) -> None:
        super().__init__()
        layer = getattr(nn, f"InstanceNorm{spatial}d")
        self.size = (4,) * (spatial + 1)  # as many channels as positions: no size tells the axes apart
        self.stem = nn.Linear(5, 4 ** (spatial + 1))
        self.norm, self.head = layer(4, affine=True, track_running_stats=tracked), nn.Linear(4 ** (spatial + 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x).view(self.size)).flatten())


@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("tracked", [False, True])
def test_the_channels_of_one_image_are_its_first_axis(
    spatial: int, tracked: bool, assert_exact: Callable[..., ft.Plan]
) -> None:
    for mode in ("full", "weights"):
        plan = assert_exact(Alone(spatial, tracked), torch.randn(5), mode=mode)
        assert plan.num_free == 4 + (mode == "full") * 4 ** (spatial + 1) and not plan.opaque


class Twice(nn.Module):
    """A batch norm without affine parameters, of channels, and of channels among which are zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(4, 3), nn.Linear(12, 2)
        self.norm = nn.BatchNorm1d(6, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.norm(self.a(x)), self.norm(F.pad(self.b(x), (3, 0)))], 1))


def test_a_mean_that_is_taken_from_zeros(assert_exact: Callable[..., ft.Plan]) -> None:
    for mode in ("full", "weights"):
        plan = assert_exact(Twice(), torch.randn(5, 4), mode=mode, norm_stats="rescaled")
        assert plan.num_free == 6 and not plan.opaque
