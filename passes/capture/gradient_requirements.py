"""Whether the model's own tensors require a gradient, where code asks: a setting, which a plan rests on."""

from __future__ import annotations

from types import FrameType

from torch import fx

from fxteleport.passes.capture import branch_arms
from fxteleport.passes.capture.model_tensors import ModelTensors
from fxteleport.passes.capture.trace_guards import TraceGuards


class GradientRequirements:
    """Answers for parameters and buffers of the model; the emitted network insists on what decides anything.

    Attributes:
        asked: name of a tensor whose `requires_grad` decided something -> what it was.
    """

    def __init__(self, tensors: ModelTensors, guards: TraceGuards) -> None:
        self.asked: dict[str, bool] = {}
        self._tensors, self._guards = tensors, guards

    def know(self, node: fx.Node) -> bool:
        """True for a node that reads a tensor of the model's own."""
        return node.op == "get_attr" and node.target in self._tensors.metas

    def of(self, node: fx.Node, frame: FrameType) -> bool:
        """What the `requires_grad` of such a tensor gives to the code of a frame."""
        name = str(node.target)
        required = name in self._tensors.trained
        if not branch_arms.agree(frame, required):
            self.asked[name] = required
            self._guards.require_gradient(node, required)
        return required
