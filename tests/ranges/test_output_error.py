"""The error of the outputs is measured in every container that a network returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.ranges.objective import Format
from fxteleport.ranges.output_error import output_errors


@dataclass
class Record:
    logits: Tensor
    step: int = 1


class Named(NamedTuple):
    logits: Tensor


class Net(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.layer(x))


@pytest.mark.parametrize(
    "wrap",
    [lambda x: (x, None), lambda x: {"a": [x]}, Named, Record],
    ids=["tuple", "dict", "named tuple", "data class"],
)
def test_the_error_does_not_depend_on_the_container(wrap: Callable[[Tensor], Any]) -> None:
    errors = []
    for outer in (lambda x: x, wrap):
        torch.manual_seed(0)
        model, x = Net(outer).eval(), torch.randn(5, 4)
        plan = ft.plan(model, x)
        errors += output_errors(plan, [plan.identity()], Format(bits=4), [x])
    assert math.isfinite(errors[0]) and errors[0] == errors[1] > 0
