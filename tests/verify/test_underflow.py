"""Underflow: bits that a subnormal value has no place for are no fault of a rule, and hide none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft


class Gate(nn.Module):
    """Gates of which some are nearly shut: their products are as small as float32 can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate, self.last = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        shut = torch.sigmoid(self.gate(x) - torch.linspace(0, 90, 8))
        product = self.value(x) * shut
        return self.last(torch.tanh(product * (product.square().sum(-1, keepdim=True) + 1e-6).rsqrt()))


def emitted() -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = ft.randomize(Gate()).eval(), torch.randn(64, 4)
    plan = ft.plan(model, x)
    values = torch.full((plan.num_free,), 2.0**-6, dtype=torch.float64)
    return model, plan.rewrite(plan.cob(values)), x


def test_bits_that_are_lost_below_the_smallest_normal_number_are_no_difference() -> None:
    model, network, x = emitted()
    report = ft.verify(model, network, x)
    assert report.passed and report.bitwise_equal and report.first_difference is None, report
    assert report.underflows > 0
    assert "too small for their format" in str(report)


@pytest.mark.parametrize("wrong", [lambda y: y * (1 + 2**-23), lambda y: torch.where(y.abs() < 1e-30, 0.0, y)])
def test_a_wrong_value_behind_them_still_is_one(wrong: Callable[[Tensor], Tensor]) -> None:
    model, network, x = emitted()
    graph = network.graph
    product = next(n for n in graph.nodes if n.name == "tanh")
    with graph.inserting_before(product):
        product.replace_input_with(product.args[0], graph.call_function(wrong, (product.args[0],)))
    network.recompile()
    assert not ft.verify(model, network, x).passed


def test_where_nothing_is_small_nothing_is_counted() -> None:
    model, x = ft.randomize(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))), torch.randn(5, 4)
    plan = ft.plan(model, x)
    assert ft.verify(model, plan.rewrite(plan.sample(0.9, exact=True, seed=0)), x).underflows == 0
