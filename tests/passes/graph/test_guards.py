"""Guards: the project's own error, which says what was captured, what came, and where."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch

import fxteleport as ft
from fxteleport.passes.graph.guards import expect, expect_form, expect_length, expect_ones, expect_tensor, insist
from fxteleport.passes.rewrite.teleported_modules import scaled

ZERO = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("check", "args", "says"),
    [
        (expect, (4, 3, "size in 'block'"), ["size in 'block'=3", "got 4"]),
        (expect, (torch.tensor(4), 3, "size"), ["size=3", "got tensor(4)"]),
        (expect, (False, True, "ge in 'block'"), ["ge in 'block'=True", "got False"]),
        (expect_length, ([1], 2, "parts"), ["2 items in parts", "got 1"]),
        (expect_tensor, (ZERO, 3, None, "x"), ["3 axes of x", "got 2"]),
        (expect_tensor, (ZERO, None, torch.int64, "x"), ["torch.int64 for x", "got torch.float32"]),
        (expect_form, (None, ..., "x"), ["a tensor for x", "got None"]),
        (expect_form, (None, [..., ...], "x"), ["a list or a tuple for x", "got None"]),
        (expect_form, ([ZERO], [..., ...], "x"), ["2 items in x", "got 1"]),
        (expect_form, ([ZERO, 3], [..., ...], "x"), ["a tensor for x[1]", "got 3"]),
        (expect_form, ({"a": ZERO}, (("b", ...),), "x"), ["the keys of x", "'b'", "'a'"]),
        (expect_form, (3, (("b", ...),), "x"), ["['b'] for x", "got 3"]),
        (expect_form, ({"b": 1}, (("b", 2),), "x"), ["x['b']=2", "got 1"]),
        (insist, (torch.tensor(False), True, "model.py:3"), ["own check", "model.py:3"]),
        (expect_tensor, (7, 1, None, "t"), ["t", "a tensor", "7"]),
        (expect_ones, (7, 1, {0: True}, "t"), ["t", "a tensor", "7"]),
        (scaled, (ZERO, torch.ones(4)), ["other sizes", "[4]", "[2, 3]"]),
    ],
)
def test_a_refusal_is_the_projects_own_and_says_what_and_where(check: Any, args: Any, says: list[str]) -> None:
    with pytest.raises(ft.GuardError) as refusal:
        check(*args)
    assert isinstance(refusal.value, ft.TeleportError)
    assert isinstance(refusal.value, ValueError)
    for words in says:
        assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("check", "args"),
    [
        (expect, (3, 3, "size")),
        (expect, (torch.tensor(3), 3, "size")),
        (expect_length, ((1, 2), 2)),
        (expect_tensor, (ZERO.double(), 2, torch.float32, "x")),
        (expect_form, (OrderedDict(a=[ZERO, None]), (("a", [..., None]),), "x")),
        (insist, (True, True, "")),
    ],
)
def test_what_was_captured_is_let_through(check: Any, args: Any) -> None:
    check(*args)
