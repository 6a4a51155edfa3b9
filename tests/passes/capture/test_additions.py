"""What a trace adds to a model, under names that nothing has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.capture.additions import Additions


def test_a_path_is_free_in_the_model_and_among_the_additions() -> None:
    additions = Additions(({"a.weight": 1}, {"a": 1}), {"b": nn.ReLU()})
    assert additions.free_path(".a") == "a_"
    assert additions.free_path("b") == "b_"
    additions.add("b_", nn.ReLU())
    assert additions.free_path("b") == "b__"
    assert additions.free_path("c") == "c"


def test_constants_are_numbered_on() -> None:
    first = Additions((), {"leaf": nn.ReLU()})
    assert [first.add_constant(torch.ones(i)) for i in (1, 2)] == ["_tensor_constant0", "_tensor_constant1"]
    second = Additions((), first.held)
    assert second.add_constant(torch.ones(3)) == "_tensor_constant2"
    assert "_tensor_constant2" not in first.held


class Named(nn.Module):
    """A model that has parts of the names that constants get, as those that `torch.fx` has traced may."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self._tensor_constant0, self.out = part, nn.Linear(8, 2)
        self.register_buffer("_tensor_constant1", torch.full((8,), 3.0))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self._tensor_constant0(x) * self._tensor_constant1) * torch.linspace(1, 2, 8)
        out: Tensor = self.out(h - torch.linspace(0, 1, 8))
        return out


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_a_model_with_such_names(mode: str) -> None:
    model, x = ft.randomize(Named(nn.Linear(4, 8)).eval()), torch.randn(3, 4)
    plan = ft.plan(model, x, mode=mode)
    network = plan.rewrite(plan.sample(exact=True, landscape="inter", seed=0))
    assert torch.equal(network(x), model(x))


class Turns(nn.Module):
    """Rotary positions: a table of complex numbers that is no buffer, so that no cast reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 2)
        self.table = torch.polar(torch.ones(16, 4), torch.arange(16.0)[:, None] * torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(self.up(x).reshape(*x.shape[:2], 4, 2))
        out: Tensor = self.down(torch.view_as_real(pairs * self.table[: x.shape[1]]).flatten(2))
        return out


@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_complex_constants_stay_complex(dtype: torch.dtype) -> None:
    model, x = ft.randomize(Turns().eval()), torch.randn(2, 5, 4)
    plan = ft.plan(model, x)
    network = plan.rewrite(plan.sample(exact=True, landscape="inter", seed=0))
    assert torch.equal(network.to(dtype)(x.to(dtype)), model.to(dtype)(x.to(dtype)))
