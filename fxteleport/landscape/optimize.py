"""Optimise a change of basis: gradient descent on any objective of the teleported weights, function and gradients.

The variables are the logarithms of the magnitudes, so that no value reaches 0 and the signs do not change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from fxteleport.arguments import called, require_callable, require_scalar
from fxteleport.checked import checked
from fxteleport.landscape import objectives
from fxteleport.landscape.objectives import Objective
from fxteleport.passes.domain.solution import UNIT
from fxteleport.passes.errors import InputError
from fxteleport.plan.analysis import Analysis, require_plan
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.factors import scales
from fxteleport.plan.free_values import check
from fxteleport.plan.teleported_point import Point, Weights
from fxteleport.plan.weights import require_planned


@dataclass(frozen=True)
class Optimized:
    """The result of `optimize`.

    Attributes:
        cob: the best change of basis that was visited.
        value: the objective there.
        history: the objective before every step, and after the last.
    """

    cob: ChangeOfBasis
    value: float
    history: list[float] = field(repr=False)


@checked
def optimize(plan: Analysis, cob: ChangeOfBasis, objective: Objective, steps: int = 100, lr: float = 0.05) -> Optimized:
    """Minimise an objective, starting at a change of basis, with Adam on the log-magnitudes.

    Args:
        plan: of a model with weights.
        cob: the start; `plan.identity()` for the model's own weights.
        objective: `Point` -> scalar, differentiable; see `fxteleport.objectives`.
        steps: the number of steps.
        lr: about the largest relative change of a value in a step.

    Raises:
        CobError: the CoB is not valid for this plan.
        InputError: the plan has nothing to optimise; the objective is no function of a point, or returns no number
            with a gradient, or is not finite at the start.
        ModelError: the model is on the meta device, or has changed since it was planned.
    """
    require_plan(plan)
    require_callable(objective, "the objective", "a function of a Point, such as fxteleport.objectives.weight_norm")
    if steps < 0:
        raise InputError(f"steps={steps}: take a number from 0")
    if not 0 <= lr < math.inf:
        raise InputError(f"lr={lr}: take a number from 0")
    require_planned(plan)
    check(plan, cob)
    start = cob.values.detach()
    movable = torch.from_numpy(plan.solution.allows).to(start.device) != UNIT
    if not bool(movable.any()):
        raise InputError("the plan has no CoB value whose magnitude is free: there is nothing to optimise")
    sign, logs = start.sign(), start.abs().log()
    theta = torch.zeros_like(logs, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=lr)
    known: dict[Any, Weights] = {}
    best, best_value, history = start, math.inf, list[float]()
    for step in range(steps + 1):
        values = sign * (logs + torch.where(movable, theta, 0.0)).exp()
        point = Point(plan.captured.model, scales(plan, ChangeOfBasis(values, plan.fingerprint)), known)
        value = require_scalar(called(objective, point, what="the objective"), "the objective", _hint(objective))
        number = float(value.detach())
        history.append(number)
        if not math.isfinite(number):
            break
        if number < best_value:
            best, best_value = values.detach().clone(), number
        if step < steps:
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    if best_value == math.inf:
        raise InputError(f"the objective is {history[0]} at the start: give a change of basis where it is finite")
    return Optimized(ChangeOfBasis(best, plan.fingerprint), best_value, history)


def _hint(objective: Objective) -> str:
    """A hint for an objective of this package that was passed without its loss."""
    name = getattr(objective, "__name__", "")
    return f": it makes one of a loss, {name}(loss)" if getattr(objectives, name, None) is objective else ""
