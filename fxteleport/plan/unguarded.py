"""Weights without guards: the original class has no guards, as an emitted network has.

If a plan has conditions, weights that go back into the original class are exact only where these hold. The user gets a
warning or, with `strict`, an error.
"""

from __future__ import annotations

import warnings

from fxteleport.passes.errors import ConditionError, ConditionWarning
from fxteleport.passes.graph.conditions import in_short
from fxteleport.plan.analysis import Analysis


def require_none(plan: Analysis) -> None:
    """Raise ConditionError, which lists them, if the plan has conditions."""
    if plan.conditions:
        listed = in_short(plan.conditions, len(plan.conditions))
        raise ConditionError(
            f"this plan holds under conditions that strict=True does not allow: {listed}. Teleport without strict if"
            " they hold wherever the network is used, or change the model's code there"
        )


def admit(plan: Analysis, strict: bool) -> None:
    """Allow weights without guards; the first time, a ConditionWarning lists the plan's conditions, if any.

    Raises:
        ConditionError: `strict`, and the plan has conditions.
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
