"""Arrays: what one holds can be noted, compared to the last bit, put back, and copied into memory of its own."""

from __future__ import annotations

import array
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fxteleport.passes.graph.arrays import copied, held_by, is_array, overlap, put_into, still_holds

MADE: dict[str, Callable[[], Any]] = {
    "floats": lambda: np.arange(6.0).reshape(2, 3),
    "every other": lambda: np.arange(6.0)[::2],
    "nothing known": lambda: np.array([np.nan, -0.0]),
    "objects": lambda: np.array([None, "a"], dtype=object),
    "bytes": lambda: bytearray([1, 2]),
    "an array of Python's": lambda: array.array("d", [1.0, 2.0]),
    "a view of bytes": lambda: memoryview(bytearray([1, 2])),
    "text": lambda: io.StringIO("ab"),
    "a file of bytes": lambda: io.BytesIO(b"ab"),
    "a tensor": lambda: torch.arange(4.0),
    "a number": lambda: torch.tensor(2.0),
    "a tensor of another type": lambda: torch.tensor([1.0, float("nan")], dtype=torch.bfloat16),
}


def change(x: Any) -> None:
    """Write to the first cell."""
    if isinstance(x, np.ndarray):
        x[(0,) * x.ndim] = 7
    elif isinstance(x, torch.Tensor):
        x.view(-1)[0] = 7
    elif isinstance(x, (io.StringIO, io.BytesIO)):
        x.read()
    else:
        x[0] = 7


@pytest.mark.parametrize("name", MADE)
def test_what_is_noted_is_put_back(name: str) -> None:
    x = MADE[name]()
    assert is_array(type(x))
    before = held_by(x)
    assert still_holds(x, before)
    change(x)
    assert not still_holds(x, before)
    put_into(x, before)
    assert still_holds(x, before)


@pytest.mark.parametrize("name", MADE)
def test_a_copy_shares_no_memory(name: str) -> None:
    x = MADE[name]()
    other, before = copied(x), held_by(x)
    assert type(other) is type(x)
    assert not overlap(x, other)
    assert still_holds(other, before)
    change(other)
    assert still_holds(x, before)


def test_zeros_have_a_sign() -> None:
    for x, y in ((np.zeros(1), -np.zeros(1)), (torch.zeros(1), -torch.zeros(1))):
        assert not still_holds(x, held_by(y))


def test_what_lies_in_one_memory_overlaps() -> None:
    x = np.zeros(4)
    for view in (x[1:], x[::2], torch.from_numpy(x), torch.from_numpy(x)[2:]):
        assert overlap(x, view)
    assert not overlap(x[:2], x[2:])


def test_what_nobody_can_change_is_not_noted() -> None:
    fixed = np.zeros(2)
    fixed.flags.writeable = False
    for x in (fixed, memoryview(b"ab"), torch.zeros(2, device="meta"), torch.eye(2).to_sparse()):
        assert held_by(x) is None
