"""Joining: one CoB for all operands; a constant other than zero has the CoB 1."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

MASK = torch.arange(16).view(4, 4) % 3 == 0
JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda x, y: x + y,
    "add alpha": lambda x, y: torch.add(x, y, alpha=2.5),
    "iadd": lambda x, y: x.add_(y),
    "sub": lambda x, y: x - y,
    "rsub": lambda x, y: torch.rsub(x, y),
    "where": lambda x, y: torch.where(MASK, x, y),
    "where, named": lambda x, y: torch.where(MASK, input=x, other=y),
    "where method": lambda x, y: x.where(MASK, y),
    "lerp": lambda x, y: x.lerp(y, 0.3),
    "sum of list": lambda x, y: sum([x, y]),
    "add zero": lambda x, y: (x + 0) + (0 + y) + torch.zeros_like(x),
}


@pytest.mark.parametrize("name", JOINS)
def test_joins(name: str, check_operation: Callable[..., None]) -> None:
    check_operation(JOINS[name], full=8, weights=8, streams=2)


@pytest.mark.parametrize("operation", [torch.maximum, torch.minimum, torch.fmax])
def test_the_larger_of_two(operation: Callable[..., Tensor], check_operation: Callable[..., None]) -> None:
    check_operation(operation, full=8, weights=8, streams=2)


SHIFTS: dict[str, Callable[[Tensor], Tensor]] = {
    "number": lambda x: x + 1,
    "reflected": lambda x: 1 - x,
    "method": lambda x: x.sub(2, alpha=3),
    "keyword": lambda x: torch.rsub(x, 1, alpha=2.5),
    "in place": lambda x: (x * 2).add_(1),
    "size": lambda x: x + x.shape[1],
    "tensor": lambda x: x + torch.ones(4),
    "scalar tensor": lambda x: torch.tensor(2.0) - x,
    "table": lambda x: x + torch.arange(8.0).view(8, 1, 1),
    "table on the left": lambda x: torch.arange(8.0).view(8, 1, 1) - x,
    "more axes": lambda x: x + torch.arange(16.0).view(2, 1, 8, 1, 1),
}


@pytest.mark.parametrize("name", SHIFTS)
def test_a_constant_shifts_an_activation(name: str, check_operation: Callable[..., None]) -> None:
    """tau (x / tau + c), or x + tau c: in mode="weights" it pins."""
    check_operation(SHIFTS[name], full=8, weights=0)


class Gain(nn.Module):
    """A gain that is stored as its distance from 1 (Gemma), and a table that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        self.weight = nn.Parameter(torch.randn(8))
        self.register_buffer("table", torch.randn(1, 16, 8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.table[:, : x.shape[1]].to(x.dtype)
        return self.head(x * (1.0 + self.weight.float()))


def test_a_gain_and_a_table(assert_exact: Callable[..., ft.Plan]) -> None:
    model, x = Gain(), torch.randn(2, 5, 3)
    assert assert_exact(model, x, mode="weights", at_least=0).num_free == 0
    plan = assert_exact(model, x)
    assert plan.num_free == 16
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
    assert torch.equal(network.table, model.table)  # a state dict says where the network is
    for other in (torch.randn(3, 5, 3), torch.randn(1, 9, 3)):
        assert torch.equal(network(other), model(other))


def test_what_is_computed_from_buffers_alone_is_not_wrapped(assert_exact: Callable[..., ft.Plan]) -> None:
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
            self.register_buffer("frequencies", torch.rand(8))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x) * (self.frequencies + 1).cos())

    assert assert_exact(Rotary(), torch.randn(2, 3)).num_free == 8


CONSTANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "where number": lambda x: x.where(MASK, 0.5),
    "masked_fill": lambda x: x.masked_fill(MASK, 2.0),
    "ones": lambda x: x + torch.ones_like(x),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_pin(name: str, check_operation: Callable[..., None]) -> None:
    check_operation(CONSTANTS[name], full=0, weights=0)


ZEROS: dict[str, Callable[[Tensor], Tensor]] = {
    "masked_fill": lambda x: x.masked_fill(MASK, 0.0),
    "where": lambda x: torch.where(MASK, x, torch.zeros_like(x)),
    "number": lambda x: x + 0.0,
    "padding": lambda x: torch.nn.functional.pad(x[:, 2:], (0, 0, 0, 0, 2, 0)) + x,
}


@pytest.mark.parametrize("name", ZEROS)
def test_zeros_fit_every_cob(name: str, check_operation: Callable[..., None]) -> None:
    check_operation(ZEROS[name], full=8, weights=8)


def test_broadcasting_joins_what_meets(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: x + y.mean((2, 3), keepdim=True), full=8, weights=8, streams=2)
    check_operation(lambda x, y: x + y.mean(1, keepdim=True), full=1, weights=1, streams=2)
    check_operation(lambda x: x[:, :4] + x[:, 4:], full=4, weights=4)
    check_operation(lambda x: x + x.roll(1, 1), full=1, weights=1)
    check_operation(lambda x: x + x.flip(1), full=4, weights=4)


def test_a_tensor_condition_is_sound(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: torch.where(x > 0, x, y), full=None, streams=2, known=False)


def test_what_weighs_two_values_is_pinned(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y, z: x.lerp(y, z), full=8, weights=8, streams=3)


def test_padded_streams_meet(check_operation: Callable[..., None]) -> None:
    """Where one is a structural zero the sum has the other's CoB."""

    def below(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 3))

    def above(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, 0, 3, 0))

    check_operation(lambda x, y: below(x) + above(y), full=11, weights=11, streams=2)
    check_operation(lambda x, y: below(x * x.mean((2, 3), keepdim=True)) + above(y), full=11, streams=2)
    check_operation(lambda x, y: below(x) + above(y * y.mean((2, 3), keepdim=True)), full=11, streams=2)
    check_operation(lambda x, y: below(x.square()) + above(y.square()), full=11, streams=2)


def test_padded_products_meet(check_operation: Callable[..., None]) -> None:
    """x * z = y where both are there: on 5 of 11 channels."""

    def padded(x: Tensor, below: int, above: int) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, 0, above, below))

    check_operation(lambda x, y, z: padded(x * z, 3, 0) + padded(y, 0, 3), full=24 - 5, weights=24 - 5, streams=3)
    check_operation(lambda x, y, z: padded(y, 0, 3) + padded(x * z, 3, 0), full=24 - 5, weights=24 - 5, streams=3)
    check_operation(lambda x, y: torch.cos(padded(x, 3, 0) + padded(y, 3, 0)), full=8, weights=0, streams=2)
    check_operation(lambda x, y: padded(x, 3, 0) ** 1 + padded(y, 0, 3), full=11, weights=11, streams=2)

    def both(x: Tensor, y: Tensor, z: Tensor) -> Tensor:  # 1 is added to three of z's channels
        return torch.cos(padded(x, 3, 0) + padded(y, 3, 0)) + padded(z, 0, 3)

    check_operation(both, full=3 + 5, streams=3)


@pytest.mark.parametrize("flipped", [False, True])
def test_a_sum_is_described_by_what_both_terms_vary_along(flipped: bool) -> None:
    """Rows are x's channels and columns y's: the sum has one CoB, and its map one symbol."""

    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.y, self.head = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            rows, columns = self.x(x)[:, :, None].expand(-1, -1, 8), self.y(x)[:, None, :].expand(-1, 8, -1)
            return self.head(columns + rows if flipped else rows + columns)

    plan = ft.plan(Crossed(), torch.randn(2, 3))
    (total,) = (n for n in plan.captured.graph.nodes if n.name.startswith("add"))
    assert plan.num_free == 1 and [s.numel() for s, _ in plan.constrained.maps[total].factors] == [1]


def test_a_parameter_takes_the_map_of_what_it_is_added_to(check_operation: Callable[..., None]) -> None:
    """Also of axes that vary together, and on either side."""

    class Plus(nn.Module):
        def __init__(self, shape: tuple[int, ...], seen: tuple[int, ...]) -> None:
            super().__init__()
            self.bias, self.seen = nn.Parameter(torch.randn(shape)), seen

        def forward(self, x: Tensor) -> Tensor:
            return self.bias + x.view(2, *self.seen)

    check_operation(Plus((2, 4, 1), (2, 4, 16)), full=8, weights=8)
    check_operation(Plus((4, 4), (8, 4, 4)), full=1, weights=1)  # it has no axis for channels


def test_sums_broadcast(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: (x.mean(0) + y).permute(0, 2, 3, 1), full=8, weights=8, streams=2)
    check_operation(lambda x, y: (y + x.mean(0)).permute(0, 2, 3, 1), full=8, weights=8, streams=2)


def test_a_larger_of_two_by_max(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: torch.max(x, y), full=8, weights=8, streams=2)


@pytest.mark.parametrize(("shape", "free"), [((8, 5, 4), 16), ((5, 1), 9)])
def test_a_parameter_fills_zeros(shape: tuple[int, ...], free: int, check_operation: Callable[..., None]) -> None:
    """Zeros fit any CoB, but what is added to them does not: it has the one that the next layer expects."""

    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places, self.mixed = nn.Parameter(torch.randn(shape)), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([x, torch.zeros_like(x[:, :, :1])], 2) + self.places
            return self.mixed(x)[:, :, :4]

    check_operation(Placed(), full=free, weights=free)
