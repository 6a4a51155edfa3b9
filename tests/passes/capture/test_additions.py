"""What a trace adds to a model, under names that nothing has."""

from __future__ import annotations

import torch
from torch import nn

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
