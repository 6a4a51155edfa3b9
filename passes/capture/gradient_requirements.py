"""`requires_grad` of the model's own tensors: a setting that a trace specialises where code reads it."""

from __future__ import annotations

from types import FrameType

from torch import fx

from fxteleport.passes.capture import branch_arms
from fxteleport.passes.capture.model_tensors import ModelTensors
from fxteleport.passes.capture.trace_guards import TraceGuards


class GradientRequirements:
    """Answers for parameters and buffers of the model; the emitted network has guards on the answers that code used.

    Attributes:
        asked: name of a tensor whose `requires_grad` decided a branch -> its value.
    """

    def __init__(self, tensors: ModelTensors, guards: TraceGuards) -> None:
        self.asked: dict[str, bool] = {}
        self._tensors, self._guards = tensors, guards

    def know(self, node: fx.Node) -> bool:
        """True for a node that reads a tensor of the model."""
        return node.op == "get_attr" and node.target in self._tensors.metas

    def of(self, node: fx.Node, frame: FrameType) -> bool:
        """The `requires_grad` of such a tensor, read by the code of a frame."""
        name = str(node.target)
        required = name in self._tensors.trained
        if not branch_arms.agree(frame, required):
            self.asked[name] = required
            self._guards.require_gradient(node, required)
        return required
