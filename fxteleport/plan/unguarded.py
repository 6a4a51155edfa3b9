"""Weights without guards: those of an emitted network are refused wrong inputs, those in the original class are not.

Where a plan rests on conditions, weights that go back into the original class are exact only while these hold. The user
hears of it: in a warning, or with `strict` in an error.
"""

from __future__ import annotations

import warnings

from fxteleport.passes.errors import ConditionError, ConditionWarning
from fxteleport.passes.graph.conditions import in_short
from fxteleport.plan.analysis import Analysis


def require_none(plan: Analysis) -> None:
    """Raise ConditionError, which lists them, if the plan rests on any conditions."""
    if plan.conditions:
        listed = in_short(plan.conditions, len(plan.conditions))
        raise ConditionError(
            f"this plan holds under conditions that strict=True does not allow: {listed}. Teleport without strict if"
            " they hold wherever the network is used, or change the model's code there"
        )


def admit(plan: Analysis, strict: bool) -> None:
    """Let weights go where no guard is; the first time, a ConditionWarning lists the plan's conditions, if any.

    Raises:
        ConditionError: `strict`, and the plan rests on conditions.
    """
    if strict:
        require_none(plan)
    if plan.caches.warned or not plan.conditions:
        return
    plan.caches.warned = True
    warnings.warn(
        f"the teleported weights compute the same function under these conditions: {in_short(plan.conditions)}"
        " (plan.conditions)",
        ConditionWarning,
        stacklevel=3,
    )
