"""Movement: every element keeps its CoB, so nothing is pinned in either mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.graph.ops import setitem

INDEX = torch.tensor([3, 0, 5])
MASK = torch.tensor([True, False, True, True, False, False, True, False])

MOVES: dict[str, Callable[[Tensor], Any] | nn.Module] = {
    "view": lambda x: x.view(x.shape[0], 4, 2, -1),
    "view_as": lambda x: x.view_as(x.clone()),
    "reshape": lambda x: x.reshape(x.shape[0], -1, 2, 4),
    "flatten": nn.Flatten(2),
    "unflatten": nn.Unflatten(1, (2, 4)),
    "squeeze": lambda x: x.unsqueeze(1).squeeze(1),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "transpose": lambda x: x.transpose(1, 3).swapaxes(0, 1).transpose(0, 1),
    "movedim": lambda x: torch.movedim(x, 1, -1),
    "T": lambda x: x.flatten(1).T.T,
    "mT": lambda x: x.mT,
    "expand": lambda x: x.unsqueeze(1).expand(-1, 3, -1, -1, -1),
    "expand_as": lambda x: x[:, :, :1, :1].expand_as(x),
    "split": lambda x: x.split(3, 1),
    "split sizes": lambda x: torch.split(x, [1, 7], dim=1),
    "chunk": lambda x: x.chunk(3, 1),
    "tensor_split": lambda x: torch.tensor_split(x, 3, 1),
    "unbind": lambda x: x.unbind(1),
    "unbind_copy": lambda x: torch.unbind_copy(x, 1),
    "dsplit": lambda x: x.permute(0, 2, 3, 1).flatten(1, 2).dsplit(4),
    "diag": lambda x: x[0, :, :3, 0].mean(1).diag(),
    "diagonal_scatter": lambda x: torch.zeros(2, 8, 4, 4).to(x).diagonal_scatter(x[..., 0], 0, -2, -1),
    "copy_": lambda x: torch.zeros(3, 2, 8, 4, 4).to(x).copy_(x).permute(1, 0, 2, 3, 4),
    "copy_ into another": lambda x: (x * x).copy_(x),
    "copies of views": lambda x: torch.permute_copy(torch.view_copy(x, (2, 8, 16)), (0, 2, 1)),
    "narrow": lambda x: x.narrow(1, 0, 8),
    "slice": lambda x: [x[:, ::2], x[:, 1::2], x[..., 1:, None]],
    "empty slice": lambda x: torch.cat([x[:, :0], x], 1),
    "index list": lambda x: x[:, [7, 6, 5, 4, 3, 2, 1, 0]],
    "index tensor": lambda x: torch.cat([x, x[:, INDEX]], 1),
    "index mask": lambda x: torch.cat([x[:, MASK], x[:, ~MASK]], 1),
    "index_select": lambda x: torch.cat([x.index_select(1, INDEX), x], 1),
    "flip": lambda x: x.flip(1),
    "roll": lambda x: torch.roll(x, (1, 2), (1, 2)),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "tile": lambda x: torch.tile(x, (1, 2, 1, 1)),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "pixel_shuffle": nn.PixelShuffle(2),
    "pixel_unshuffle": nn.PixelUnshuffle(2),
    "channel_shuffle": nn.ChannelShuffle(4),
    "rot90": lambda x: torch.rot90(x, 1, (1, 2)),
    "cat": lambda x: torch.cat([x, x.flip(1)], 1),
    "cat positions": lambda x: torch.cat([x, x.roll(1, 1)], 2),
    "stack": lambda x: torch.stack([x, x], 1),
    "pad": lambda x: F.pad(x, (1, 1, 0, 2)),
    "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 2, 3)),
    "ZeroPad2d": nn.ZeroPad2d(1),
    "reflect": nn.ReflectionPad2d(1),
    "replicate": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "circular": nn.CircularPad2d(1),
    "F.unfold": lambda x: F.unfold(x, 2),
    "Unfold": nn.Unfold(2, stride=2),
    "Tensor.unfold": lambda x: x.unfold(1, 3, 1),
    "diagonal": lambda x: torch.cat([x.diagonal(0, 2, 3), x[..., 0]], 2),
    "tril": lambda x: x.tril(),
    "window partition": lambda x: x.view(-1, 8, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, 4, 8, 4),
    "setitem": lambda x: setitem(x.clone(), (slice(None), 1), 0.0).flip(1),
    "gather": lambda x: torch.cat([x, x.gather(1, torch.zeros(2, 1, 4, 4, dtype=torch.long))], 1),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves(name: str, check_operation: Callable[..., None]) -> None:
    check_operation(MOVES[name], full=8, weights=8)


def test_channels_that_are_put_into_the_batch_keep_their_cobs(check_operation: Callable[..., None]) -> None:
    """How many rows there are then, another batch changes, but each eight of them are the same channels."""
    check_operation(lambda x: x.reshape(-1, 2, 4), full=8, weights=8)


def test_padding_with_another_constant_pins(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x: F.pad(x, (1, 1), value=0.5), full=0, weights=0)
    check_operation(nn.ConstantPad2d(1, -2.0), full=0, weights=0)
    check_operation(nn.ConstantPad2d(1, 0.0), full=8, weights=8)


def test_writing_another_constant_pins(check_operation: Callable[..., None]) -> None:
    def write(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, 1] = 2.0
        return x

    check_operation(write, full=None, weights=None)


def test_zeros_are_written_into_positions_of_one_cob(check_operation: Callable[..., None]) -> None:
    """What is written to fits any CoB then: channel 1 of x is not held to channel 0, as all others are."""
    check_operation(lambda x: setitem(x[:, :1].repeat(1, 8, 1, 1), (slice(None), 1), 0.0) + x, full=2, weights=2)


def test_joining_two_streams_keeps_both(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: torch.cat([y, x], 1), full=16, weights=16, streams=2)
    check_operation(lambda x, y: torch.stack([x, y], 2).flatten(1, 2), full=16, weights=16, streams=2)

    def write(x: Tensor, y: Tensor) -> Tensor:
        out = x.new_zeros(x.shape[0], 16, *x.shape[2:])
        out[:, ::2], out[:, 1::2] = x, y
        return out

    check_operation(write, full=16, weights=16, streams=2)


def test_movement_of_a_product(check_operation: Callable[..., None]) -> None:
    """A map of two factors moves factor by factor."""
    check_operation(lambda x, y: (x * y).flip(1).reshape(x.shape[0], 4, -1)[:, 1:].transpose(1, 2), full=16, streams=2)


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


# name -> what is picked from x by y's values, and how many values stay free: of x (8, or 1 for all that may be picked)
# and of y (8; channels that are put in order share one)
PICKED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "channels": (lambda x, y: x[:, y[0, 0, 0].argsort()], 1 + 8),
    "channels behind an ellipsis": (lambda x, y: x[..., y[0, 0, 0].argsort(), :, :], 1 + 8),
    "positions behind an ellipsis": (lambda x, y: x[..., y[0, 0, 0].argsort()], 8 + 8),
    "behind an ellipsis and a new axis": (lambda x, y: x.permute(0, 2, 3, 1)[..., None, y[0, 0, 0].argsort()], 1 + 8),
    "with a new axis": (lambda x, y: x[:, None, :, y[0, 0, 0].argsort()], 8 + 8),
    "two indices": (lambda x, y: x[:, y[0, 0, 0].argsort(), :, y[0, 1, 0].argsort()], 1 + 8),
    "gather": (lambda x, y: x.gather(1, y[:, :3].argsort(1)), 1 + 6),
    "gather positions": (lambda x, y: x.gather(3, y[:, :3].argsort(3)), 8 + 8),
    "index_select": (lambda x, y: x.index_select(-1, y[0, 0, 0].argsort()), 8 + 8),
    "index_select channels from behind": (lambda x, y: x.index_select(-3, y[0, 0, 0].argsort()), 1 + 8),
    "index_select channels": (lambda x, y: x.index_select(dim=1, index=y[0, 0, 0].argsort()), 1 + 8),
    "take_along_dim": (lambda x, y: torch.take_along_dim(x, y[:, :1].argsort(3), 3), 8 + 8),
    "take_along_dim of all": (lambda x, y: torch.take_along_dim(x, y[:, 0].flatten().argsort()).view(2, -1), 1 + 8),
}


@pytest.mark.parametrize("name", PICKED)
def test_what_the_run_picks_shares_a_cob(name: str, check_operation: Callable[..., None]) -> None:
    operation, free = PICKED[name]
    check_operation(operation, full=free, weights=free, streams=2)


def test_what_a_mask_picks_is_pinned(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: x[y > 0].sum().expand(2), full=8, weights=8, streams=2, known=False)  # those of y


def test_what_has_no_cob_moves(assert_exact: Callable[..., ft.Plan]) -> None:
    """An input of the network is moved as anything else, and zeros beside it keep the CoB free."""

    class Inputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(3, 4), nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(2, 4)
            self.head = nn.Linear(20, 2)

        def forward(self, x: Tensor) -> Tensor:
            first, second = x.split(3, 1)
            padded, whole = F.pad(x, (3, 3)).split(6, 1)
            scalars = torch.stack([x.sum(), x.mean()])
            parts = [self.a(first), self.a(second), self.b(padded), self.c(whole), self.d(scalars)[None].tile(2, 1)]
            return self.head(torch.cat(parts, 1))

    plan = assert_exact(Inputs(), torch.randn(2, 6))
    assert plan.num_free == 16 and not plan.opaque


def test_padding_in_a_part(check_operation: Callable[..., None]) -> None:
    """Zeros in one of several parts."""
    check_operation(lambda x: [torch.tanh(p) for p in F.pad(x, (0, 0, 0, 0, 4, 0)).split(4, 1)], full=8)
    check_operation(lambda x: [torch.tanh(p) for p in F.pad(x, (0, 0, 0, 0, 0, 4)).split(4, 1)], full=8)

    def first(x: Tensor, y: Tensor) -> Tensor:
        return torch.cos(F.pad(x, (0, 0, 0, 0, 4, 0)).split(6, 1)[0]) + y[:, :6]

    check_operation(first, full=8 + 8 - 4 - 2, streams=2)  # 1 is added to four of y's channels, x to two


def test_what_moves_beside_constants(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x: torch.stack([x, torch.ones_like(x)], 2), full=8, weights=8)
    check_operation(lambda x: torch.stack([x.sum(), x.new_ones(())]).expand(2, -1), full=1, weights=1)


def test_an_attribute_that_is_not_known_pins(
    check_operation: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tensor, "doubled", property(lambda x: x + x), raising=False)
    check_operation(lambda x: x.doubled, full=0, weights=0, known=False)

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).doubled

    assert [o.why for o in ft.plan(Doubled(), torch.randn(2, 3)).opaque] == [
        "'getattr': the attribute 'doubled' is not known"
    ]


def test_copies_into_integers_pin(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: y.long().copy_(8 * x).to(x.dtype), full=0, weights=0, streams=2)


def test_a_buffer_that_nothing_scales_is_taken_apart(assert_exact_everywhere: Callable[..., None]) -> None:
    class Taken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
            self.register_buffer("table", torch.arange(24.0).view(3, 8) / 8)

        def forward(self, x: Tensor) -> tuple[Tensor, Any]:
            low, high = parts = self.table.chunk(2, 1)
            return self.last(self.linear(x) * low[1] * high[2]), parts

    plan = ft.plan(Taken(), torch.randn(2, 3))
    assert plan.num_free == 4
    assert not plan.opaque
    assert_exact_everywhere(Taken, lambda dtype: torch.randn(2, 3, dtype=dtype))


def test_parts_are_replaced(check_operation: Callable[..., None]) -> None:
    at = torch.tensor([1, 5])
    check_operation(lambda x, y: x.index_copy(1, at, y[:, :2]), full=16, streams=2)
    check_operation(lambda x, y: torch.slice_scatter(x, y[:, :3], 1, 2, 5), full=16, streams=2)
    check_operation(lambda x, y: torch.select_scatter(x, y[:, 0], 1, 2), full=16, streams=2)
    check_operation(lambda x: x.data * 2, full=8, known=False)


def test_writing_leaves_the_maps_of_others(check_operation: Callable[..., None]) -> None:
    """Copies share one map until something is written into one of them, in one place or in all of them."""

    def in_one_place(x: Tensor, y: Tensor) -> Tensor:
        changed = x.clone()
        changed[0, :, 0, 0] = y[0, :, 0, 0]
        return torch.cat([changed, x], 1)

    check_operation(in_one_place, full=8, weights=8, streams=2)

    def of_full_size(x: Tensor, y: Tensor) -> Tensor:
        vector, other = x.mean((0, 2, 3)), y.mean((0, 2, 3))
        changed = vector.clone()
        changed[:4] = other[4:]
        return x * torch.cat([vector, changed])[4:12, None, None]

    check_operation(of_full_size, full=16, weights=16, streams=2)


def test_broadcast_tensors(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x: torch.mul(*torch.broadcast_tensors(x, x.mean((2, 3), keepdim=True))), 8, 8)
    check_operation(lambda x: torch.cat(torch.broadcast_tensors(x, x[:1], x[:, :, :1]), 1), 8, 8)


class Found(nn.Module):
    """A table of values read by a mask that is known, and by an index that the run finds, along the axis behind it."""

    def __init__(self, dots: bool) -> None:
        super().__init__()
        self.stem, self.head, self.dots = nn.Linear(5, 2 * 2 * 4), nn.Linear(2, 3), dots
        self.register_buffer("mask", torch.tensor([[True, False], [False, True]]))

    def forward(self, x: Tensor) -> Tensor:
        table, at = self.stem(x).view(2, 2, 4), x[:2].argsort()
        return self.head(table[..., at][self.mask, 0] if self.dots else table[self.mask, at])


@pytest.mark.parametrize("dots", [False, True])
def test_a_mask_stands_for_as_many_axes_as_it_has(dots: bool, assert_exact: Callable[..., ft.Plan]) -> None:
    model = ft.randomize(Found(dots).eval())
    for mode in ("full", "weights"):
        plan = ft.plan(model, torch.tensor([1.0, 2.0, 0.0, 0.0, 0.0]), mode=mode)
        network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
        for values in ([1.0, 2.0, 0.5, 0.0, 1.0], [2.0, 1.0, -1.0, 1.0, 0.0]):
            x = torch.tensor(values)
            assert torch.equal(model(x), network(x))


@pytest.mark.parametrize(
    "operation",
    [
        lambda x, at: x.gather(0, at),
        lambda x, at: x.index_select(0, at),
        lambda x, at: x.index_add(0, at, x),
        lambda x, at: x.scatter_add(-1, at, x * 2),
        lambda x, at: x.index_copy(0, at, x),
    ],
)
def test_a_number_has_no_axis(operation: Callable[..., Tensor], assert_exact: Callable[..., ft.Plan]) -> None:
    class Number(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(4, 1), nn.Linear(1, 3)

        def forward(self, x: Tensor) -> Tensor:
            at = x[:1].argsort()[0]  # which the run finds
            return self.head(operation(self.stem(x).view(()), at).view(1))

    plan = assert_exact(Number(), torch.randn(4))
    assert not plan.opaque
