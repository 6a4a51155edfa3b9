"""Writing a part of a tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fxteleport.passes.graph.ops import setitem


def test_writing_another_constant_pins(check_operation: Callable[..., None]) -> None:
    def write(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, 1] = 2.0
        return x

    check_operation(write, full=None, weights=None)


def test_zeros_are_written_into_positions_of_one_cob(check_operation: Callable[..., None]) -> None:
    """What is written to fits any CoB then: channel 1 of x is not held to channel 0, as all others are."""
    check_operation(lambda x: setitem(x[:, :1].repeat(1, 8, 1, 1), (slice(None), 1), 0.0) + x, full=2, weights=2)


def test_copies_into_integers_pin(check_operation: Callable[..., None]) -> None:
    check_operation(lambda x, y: y.long().copy_(8 * x).to(x.dtype), full=0, weights=0, streams=2)


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
