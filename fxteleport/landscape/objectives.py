"""Objectives for `ft.optimize`: scalar functions of a `Point`, to be minimised.

Any function of a point is one; `negative(objective)` maximises it instead. A wrong loss, or wrong weights, raise
InputError when the objective is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fxteleport.arguments import require_callable, require_weights
from fxteleport.checked import checked
from fxteleport.plan.teleported_point import Loss, Point, require_loss

Objective = Callable[[Point], Tensor]


@checked
def weight_norm(point: Point) -> Tensor:
    """The Euclidean norm of all weights."""
    return _norm(point.weights)


@checked
def gradient_norm(loss: Loss) -> Objective:
    """The Euclidean norm of the gradient."""
    require_loss(loss)
    return lambda point: _norm(point.gradients(loss))


@checked
def relative_gradient(loss: Loss) -> Objective:
    """The gradient's norm divided by the weights' norm, which the paper's Fig. 6 measures."""
    require_loss(loss)
    return lambda point: _norm(point.gradients(loss)) / _norm(point.weights)


@checked
def lookahead(loss: Loss, lr: float) -> Objective:
    """The loss after one step of gradient descent from the teleported weights."""
    require_loss(loss)

    def objective(point: Point) -> Tensor:
        weights, slopes = point.weights, point.gradients(loss)
        return point.loss(loss, {n: w - lr * slopes[n] if n in slopes else w for n, w in weights.items()})

    return objective


@checked
def sharpness(loss: Loss, radius: float = 0.05) -> Objective:
    """The rise of the loss at a distance `radius` along the gradient: the first-order sharpness of SAM.

    Foret et al., "Sharpness-aware minimization", eq. 2.
    """
    require_loss(loss)

    def objective(point: Point) -> Tensor:
        weights, slopes = point.weights, point.gradients(loss)
        step = radius / _norm(slopes).clamp_min(torch.finfo(torch.float64).tiny)
        moved = {n: w + step * slopes[n] if n in slopes else w for n, w in weights.items()}
        return point.loss(loss, moved) - point.loss(loss)

    return objective


@checked
def distance(target: Mapping[str, Tensor]) -> Objective:
    """The Euclidean distance to other weights."""
    require_weights(target, what="the target weights")

    def objective(point: Point) -> Tensor:
        require_weights(target, like=point.weights, what="the target weights")
        return _norm({n: w - target[n].to(w) for n, w in point.weights.items()})

    return objective


@checked
def negative(objective: Objective) -> Objective:
    """The negated objective: minimising it maximises the original."""
    require_callable(objective, "the objective", "a function of a Point")
    return lambda point: -objective(point)


def _norm(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([t.square().sum(dtype=torch.float64) for t in tensors.values()]).sum().sqrt()
