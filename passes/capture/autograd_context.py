"""Stands in for the `ctx` that torch passes to an autograd function, while its forward and backward are traced."""

from __future__ import annotations

from typing import Any


class AutogradContext:
    """Holds what the forward saves for the backward."""

    def __init__(self, needed: tuple[bool, ...]) -> None:
        self.needs_input_grad = needed
        self.saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def _noted(self, *_: Any) -> None:
        """Ignored: `mark_dirty` and its like do not change values."""

    mark_dirty = mark_non_differentiable = set_materialize_grads = save_for_forward = _noted
