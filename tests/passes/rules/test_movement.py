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


def test_movement_of_a_product(check_operation: Callable[..., None]) -> None:
    """A map of two factors moves factor by factor."""
    check_operation(lambda x, y: (x * y).flip(1).reshape(x.shape[0], 4, -1)[:, 1:].transpose(1, 2), full=16, streams=2)


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


def test_broadcast_tensors(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x: torch.mul(*torch.broadcast_tensors(x, x.mean((2, 3), keepdim=True))), 8, 8)
    check_operation(lambda x: torch.cat(torch.broadcast_tensors(x, x[:1], x[:, :, :1]), 1), 8, 8)


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
