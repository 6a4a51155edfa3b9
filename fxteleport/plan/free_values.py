"""The free values of a plan as changes of basis: drawn, all 1, or given by the user; and whether they are valid."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fxteleport.arguments import kind
from fxteleport.checked import checked
from fxteleport.passes.domain.solution import POSITIVE, UNIT
from fxteleport.passes.errors import CobError
from fxteleport.plan.analysis import Analysis
from fxteleport.plan.cob import ChangeOfBasis, require_cob, sample_values


@checked
def sample(
    plan: Analysis,
    cob_range: float = 0.5,
    landscape: str = "intra",
    exact: bool = False,
    seed: int | None = None,
    center: float = 1.0,
) -> ChangeOfBasis:
    """Draw a CoB by one of the paper's laws (see `plan.cob.sample_values`).

    Raises:
        CobError: an unknown law, or a range outside it.
    """
    values = sample_values(plan.solution.allows, cob_range, landscape, exact, seed, center)
    return ChangeOfBasis(values, plan.fingerprint)


def identity(plan: Analysis) -> ChangeOfBasis:
    """The CoB that changes nothing."""
    return ChangeOfBasis(torch.ones(plan.num_free, dtype=torch.float64, device="cpu"), plan.fingerprint)


def from_values(plan: Analysis, values: Tensor) -> ChangeOfBasis:
    """A CoB from free values of your own, float64 [num_free].

    Raises:
        CobError: they are not valid for this plan.
    """
    try:
        numbers = torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise CobError(f"CoB values are {plan.num_free} numbers, got {kind(values)} that is none") from None
    cob = ChangeOfBasis(numbers, plan.fingerprint)
    check(plan, cob)
    return cob


def check(plan: Analysis, cob: ChangeOfBasis) -> None:
    """Raise CobError unless the CoB is valid for this plan."""
    require_cob(cob)
    if cob.fingerprint != plan.fingerprint:
        raise CobError(
            "this change of basis belongs to another plan (another model, mode or norm_stats): sample one from this"
            " plan"
        )
    values = cob.values.detach()
    if tuple(values.shape) != (plan.num_free,):
        raise CobError(f"this plan has {plan.num_free} free CoB values, got a tensor of shape {tuple(values.shape)}")
    plain = values.cpu().numpy()
    if (plain > plan.solution.lowest).all() and (plain < np.inf).all() and plain.all():
        return
    bad = ~torch.isfinite(values) | (values == 0)
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        raise CobError(f"CoB value {at} is {float(values[at])}: every value must be finite and not 0")
    allows = torch.from_numpy(plan.solution.allows).to(values.device)
    wrong = ((allows == POSITIVE) & (values < 0)) | ((allows == UNIT) & (values.abs() != 1))
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0])
        law = "positive" if int(allows[at]) == POSITIVE else "1 or -1"
        raise CobError(f"CoB value {at} is {float(values[at])}, but mode='{plan.mode}' needs it to be {law}")
