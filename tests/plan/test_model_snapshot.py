"""What a model holds, and that every kind of replacement is noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fxteleport.plan.model_snapshot import ModelSnapshot


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)))


def test_all_names_are_there_tied_ones_under_each() -> None:
    model = network()
    model.add_module("again", model[0])
    held = ModelSnapshot(model).tensors
    wanted = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    assert {n: id(t) for n, t in held.items()} == {n: id(t) for n, t in wanted}


def set_data(model: nn.Sequential) -> None:
    model[0].weight.data = model[0].weight.data.clone()


def set_parameter(model: nn.Sequential) -> None:
    model[0].weight = nn.Parameter(torch.zeros_like(model[0].weight))


def set_buffer(model: nn.Sequential) -> None:
    model[2][0].running_mean = torch.ones(4)


def set_module(model: nn.Sequential) -> None:
    model[2][1] = nn.Conv2d(4, 2, 1)


def set_branch(model: nn.Sequential) -> None:
    model[2] = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def remove(model: nn.Sequential) -> None:
    del model[0].bias


@pytest.mark.parametrize("change", [set_data, set_parameter, set_buffer, set_module, set_branch, remove])
def test_a_replacement_is_noticed(change: Callable[[nn.Sequential], None]) -> None:
    model = network()
    held = ModelSnapshot(model)
    assert held.is_current()
    change(model)
    assert not held.is_current()


def test_values_are_no_replacement() -> None:
    model = network()
    held = ModelSnapshot(model)
    with torch.no_grad():
        model[0].weight.mul_(2)
    model(torch.zeros(1, 3, 4, 4))  # moves the running statistics
    assert held.is_current()


def test_what_is_not_watched_may_change() -> None:
    model = network()
    held = ModelSnapshot(model, {"0.weight"})
    set_buffer(model)
    assert held.is_current()
    set_parameter(model)
    assert not held.is_current()
