"""The weights of the planned model: checks that it has weights, and that the plan is of these."""

from __future__ import annotations

from torch import Tensor, nn

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.errors import ModelError
from fxteleport.plan.analysis import Analysis


def require_weights(model: nn.Module) -> None:
    """Raise ModelError for a model on the meta device: it has shapes, but no weights to scale."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ModelError(f"parameter '{name}' is on the meta device: load weights before teleporting the model")


def require_planned(plan: Analysis) -> None:
    """Raise ModelError unless the planned model has weights and has not changed since it was planned."""
    require_weights(plan.captured.model)
    plan.planned.require(plan.captured.model)


def matching_tensors(captured: Captured, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The data of a model's tensors under the captured names; a tied one under its first name.

    Raises:
        ModelError: a name is missing, has another shape, or is on the meta device.
    """
    data: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, meta in captured.metas.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise ModelError(f"the model has no parameter '{name}', which the plan was made with: plan it again")
        if tensor.shape != meta.shape:
            raise ModelError(
                f"parameter '{name}' has shape {tuple(tensor.shape)}, the plan was made with {tuple(meta.shape)}:"
                " plan the model again"
            )
        if tensor.is_meta:
            raise ModelError(f"'{name}' is on the meta device: load weights before teleporting the model")
        if id(tensor) not in seen:
            seen.add(id(tensor))
            data[name] = tensor.data
    return data
