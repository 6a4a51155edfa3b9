"""The numbers of a change of basis: tau of every symbol, and the factor of every tensor of a model."""

from __future__ import annotations

from torch import Tensor

from fxteleport.plan.analysis import Analysis
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.free_values import check


def tau(plan: Analysis, cob: ChangeOfBasis) -> Tensor:
    """The CoB of every symbol, float64; differentiable in `cob.values`."""
    check(plan, cob)
    return plan.solution.tau(cob.values)


def scales(plan: Analysis, cob: ChangeOfBasis) -> dict[str, Tensor]:
    """{parameter or buffer name: float64 factor broadcastable to it}, differentiable in `cob.values`.

    Names whose factor is 1 are left out.
    """
    symbols = tau(plan, cob)
    factors = {}
    for name in plan.captured.metas:
        cob_map = plan.tensor_map(name)
        factor = None if cob_map is None else cob_map.scale(symbols)
        if factor is not None:
            factors[name] = factor
    return factors
