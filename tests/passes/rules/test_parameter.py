"""Parameters that the graph reads: a free map of their own, one for all their uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torchvision.ops import FrozenBatchNorm2d

import fxteleport as ft


class Using(nn.Module):
    def __init__(self, fn: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.weights, self.fn = nn.ParameterList(torch.randn(s) for s in shapes), fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x, *self.weights)


def test_uses(check_operation: Callable[..., None]) -> None:
    cases: list[tuple[Callable[..., Tensor], list[tuple[int, ...]], int]] = [
        (lambda x, w: x + w, [(1, 8, 1, 1)], 8),  # takes x's
        (lambda x, w: x + w, [(8, 1, 1)], 8),
        (lambda x, w: x + w, [(1, 8, 4, 4)], 8),
        (lambda x, w: x * w, [(8, 1, 1)], 16),  # a layer scale: its own CoB, times x's
        (lambda x, w: x * w, [(1,)], 9),
        (lambda x, w: x * w, [()], 9),
        (lambda x, w: torch.cat([w.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)], 1), [(1, 1, 8)], 16),
        (lambda x, w: F.gelu(x + w) + w, [(8, 1, 1)], 8),  # two uses, one map
        (lambda x, w, v: x * w + v, [(8, 1, 1), (8, 1, 1)], 16),
        (lambda x, w: x * w.exp(), [(8, 1, 1)], 16),  # a function of a parameter is teleported too
        (lambda x, w: x * torch.sigmoid(w), [(8, 1, 1)], 16),
        (lambda x, w: x + w[:, :8], [(1, 12, 1, 1)], 12),  # four rows are never used
        (lambda x, w: x * w.view(1, 8, 1, 1), [(2, 4)], None),
    ]
    for fn, shapes, free in cases:
        check_operation(Using(fn, *shapes), full=free)


def test_a_relative_position_table(check_operation: Callable[..., None]) -> None:
    """Indexed by an integer buffer: its rows are moved. Added to logits it is pinned."""

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(7, 8))
            self.register_buffer("index", (torch.arange(4)[:, None] - torch.arange(4) + 3))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.table[self.index.view(-1)].view(4, 4, 8).permute(2, 0, 1)

    check_operation(Table(), full=8, weights=8)


def test_an_unused_parameter_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    model.register_parameter("extra", nn.Parameter(torch.randn(3)))
    network = ft.teleport(model, torch.randn(2, 3), cob_range=0.9, landscape="inter", seed=0)
    assert torch.equal(network.get_parameter("extra"), model.extra)


class Shifted(nn.Module):
    """A buffer that is added, or that scales."""

    def __init__(self, shape: tuple[int, ...], persistent: bool, scales: bool) -> None:
        super().__init__()
        self.stem, self.head, self.scales = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), scales
        self.register_buffer("shift", torch.randn(shape), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.relu(x * self.shift if self.scales else x + self.shift))


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1, 1)])
@pytest.mark.parametrize(("persistent", "scales", "moves"), [(True, False, True), (False, False, False),
                                                             (True, True, True), (False, True, False)])  # fmt: skip
def test_a_buffer_takes_a_cob_where_a_checkpoint_carries_it(
    shape: tuple[int, ...], persistent: bool, scales: bool, moves: bool, assert_exact: Callable[..., ft.Plan]
) -> None:
    """And is a constant otherwise: the state dict alone gives the function back."""
    model, x = ft.randomize(Shifted(shape, persistent, scales).eval()), torch.randn(2, 3, 4, 4)
    plan = assert_exact(model, x, mode="weights", at_least=0)
    assert plan.num_free == 8 * (moves + scales)
    cob = plan.sample(0.9, "positive", exact=True, seed=0)
    assert ("shift" in plan.scales(cob)) == moves
    expected = model(x)
    twin = Shifted(shape, persistent, scales).eval()
    twin.shift.copy_(model.shift)  # what a constructor makes
    twin.load_state_dict(plan.rewrite(cob).state_dict())
    assert torch.equal(twin(x), expected)


class FrozenNorm(nn.Module):
    """Batch norm whose statistics and affine parameters are buffers, as torchvision, DETR and detectron2 have it."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(8) + 0.5)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        bias = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)


class FrozenCall(FrozenNorm):
    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:  # in train mode
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, eps=self.eps)


@pytest.mark.parametrize("norm", [FrozenNorm, FrozenCall, FrozenBatchNorm2d])
def test_frozen_batch_norm(norm: Any, mode: str, norm_stats: str, assert_exact: Callable[..., ft.Plan]) -> None:
    """running_mean * in, weight * out / in, bias * out, in train mode too; the running variance stays."""
    norm = norm(8) if norm is FrozenBatchNorm2d else norm()
    model = nn.Sequential(nn.Conv2d(3, 8, 1), norm, nn.ReLU(), nn.Conv2d(8, 2, 1))
    x = torch.randn(2, 3, 4, 4)
    plan = assert_exact(model, x, mode=mode, norm_stats=norm_stats)
    assert plan.num_free == 16
    assert not plan.opaque
    assert not [c for c in plan.conditions if c.kind == "mode"]
    cob = plan.sample(0.9, "positive", exact=True, seed=0)
    scales = plan.scales(cob)
    assert (scales.get("1.running_var", torch.ones(())) == 1).all()
    assert torch.equal(scales["1.weight"] * scales["1.running_mean"], scales["1.bias"])
    network = plan.rewrite(cob)
    assert torch.equal(network.train()(x), model.train()(x))


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.register_buffer("mask", torch.ones(8, 8).tril())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.permute(0, 2, 3, 1), self.weight * self.mask)


def test_a_buffer_that_shapes_a_weight_is_a_constant(check_operation: Callable[..., None]) -> None:
    check_operation(Masked(), full=16, weights=16)
    model, x = (
        nn.Sequential(nn.Linear(3, 8), prune.random_unstructured(nn.Linear(8, 2), "weight", 0.5)),
        torch.ones(1, 3),
    )
    plan = ft.plan(model, x)
    assert plan.num_free == 8
    assert "1.weight_mask" not in plan.scales(plan.sample(exact=True, seed=0))


def test_a_table_moves_where_it_is_added(assert_exact: Callable[..., ft.Plan]) -> None:
    """Positions that are added to a stream; not the sines that turn it, which ask for no CoB."""

    class Positions(nn.Module):
        def __init__(self, turns: bool) -> None:
            super().__init__()
            self.stem, self.head, self.turns = nn.Linear(3, 8), nn.Linear(8, 2), turns
            self.register_buffer("table", torch.randn(1, 9, 8))

        def forward(self, x: Tensor) -> Tensor:
            x, table = self.stem(x), self.table[:, : x.shape[1]]
            return self.head(x * table if self.turns else x + table)

    for mode in ("full", "weights"):
        for turns in (False, True):
            model, x = Positions(turns), torch.randn(2, 5, 3)
            plan = assert_exact(model, x, mode=mode, at_least=0)
            assert plan.num_free == 8
            assert ("table" in plan.scales(plan.sample(seed=0))) == (not turns)
            network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
            other = torch.randn(1, 7, 3)
            assert torch.equal(network(other), model(other))


@pytest.mark.parametrize("whole", [True, False])
def test_a_buffer_that_each_run_writes_to(whole: bool) -> None:
    """It keeps its CoB where it is written to as a whole, and has none where a part of it is."""

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
            self.register_buffer("scale", torch.rand(8) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            (self.scale if whole else self.scale[2:]).mul_(0.5)
            return self.head(x * self.scale)

    model, x = Counts(), torch.randn(2, 3)
    plan = ft.plan(model, x)
    assert plan.num_free == (16 if whole else 8)
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    for _ in range(3):
        assert torch.equal(network(x), model(x))


def test_a_parameter_that_is_an_output_is_pinned() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.scale = nn.Linear(3, 5), nn.Linear(5, 2), nn.Parameter(torch.randn(5))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.b(self.a(x) * self.scale), self.scale

    model, x = ft.randomize(Both()), torch.randn(2, 3)
    plan = ft.plan(model, x)
    assert plan.num_free == 5
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert all(map(torch.equal, network(x), model(x)))


def test_a_value_that_fills_is_pinned(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: x + torch.zeros_like(x).fill_(y.mean()), full=0, streams=2)
    check_operation(lambda x, y: x * torch.empty_like(x).fill_(y.mean()), full=8, streams=2)
    check_operation(lambda x: x * torch.zeros_like(x).fill_(0.5), full=8, weights=8)


def test_a_mask_made_from_nothing_pins_nothing(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x: x.masked_fill(torch.zeros_like(x, dtype=torch.bool), 0.0), full=8, weights=8)


def test_integers_that_are_made_empty_pin_nothing() -> None:
    """As a detector fills in its strides."""

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.layer(x)
            return self.last(x), x.new_empty((), dtype=torch.int64).fill_(x.shape[-1])

    plan = ft.plan(Counted(), torch.randn(3, 4))
    assert not plan.opaque
    assert plan.num_free == 6


@pytest.mark.parametrize("convert", [torch.as_tensor, torch.asarray, lambda x: torch.as_tensor(x, dtype=x.dtype)])
def test_a_tensor_made_of_a_tensor(convert: Callable[..., Tensor], check_operation: Callable[..., None]) -> None:
    check_operation(lambda x: convert(x) * 2, full=8, weights=8)
