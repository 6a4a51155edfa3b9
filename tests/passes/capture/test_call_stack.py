"""Where in the model a call is made."""

from __future__ import annotations

import pytest
from torch import nn

from fxteleport.passes.capture.call_stack import CallStack
from fxteleport.passes.graph.module_clone import clone


def shadow(path: str) -> nn.Module:
    return clone(nn.ReLU(), lambda name, tensor: tensor, path)


def test_the_innermost_module_is_where_it_is() -> None:
    stack = CallStack()
    assert (len(stack), stack.path, stack.where, stack.innermost) == (0, "", "the model", None)
    with stack.inside(shadow("")), stack.inside(shadow("layer1.0")):
        assert (len(stack), stack.path, stack.where) == (2, "layer1.0", "layer1.0")
    assert not stack


def test_after_an_error_it_tells_where_that_was() -> None:
    stack = CallStack()
    with pytest.raises(ValueError, match="here"), stack.inside(shadow("layer1")):
        raise ValueError("here")
    assert stack.path == "layer1"
    stack.unwind(0)
    assert not stack
