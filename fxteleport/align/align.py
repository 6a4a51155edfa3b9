"""Align: the change of basis that maps one set of weights onto another.

Teleported weights are b = a * prod_k tau_k ** e_k elementwise, so that

    log |b / a| = sum_k e_k log |tau_k|        sign(a b) = prod_k sign(tau_k) ** e_k

The magnitudes are a linear least-squares problem in the logs of the free values (`magnitudes.py`), the signs a
spanning tree of the strongest votes (`signs.py`). If one change of basis explains most weights, this finds it: a few
robust Gauss-Newton steps ignore the others. If none does, the nearest one is another problem: the squared distance is
minimised (`descent.py`) from several starts, one of them the identity, and the distance that remains is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from fxteleport.align.descent import Distance, share
from fxteleport.align.magnitudes import Pair, exponents, magnitudes, refined
from fxteleport.align.signs import signs
from fxteleport.arguments import require_weights
from fxteleport.checked import checked
from fxteleport.passes.capture.model_tensors import named_tensors
from fxteleport.passes.domain.solution import POSITIVE, UNIT
from fxteleport.passes.errors import InputError
from fxteleport.passes.graph.module_clone import modules_of
from fxteleport.plan.analysis import Analysis, require_plan
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.factors import scales

_TINY = 1e-300
_NEAR = 1e-2  # relative distance of two weights below which they count as one, if most are
_EXACT = 1e-6  # relative distance below which two networks count as one teleported (float32 rounds at 1e-7)


@dataclass(frozen=True)
class Alignment:
    """The result of `align`.

    Attributes:
        cob: maps the weights `a` to `b`, or near to it.
        before: the distance of `a` to `b`, relative to the norm of `b`.
        after: the same for the teleported `a`.
        distances: the remaining relative distance, by parameter name.
        exact: `b` is a teleported `a`, up to rounding.
    """

    cob: ChangeOfBasis
    before: float
    after: float
    distances: dict[str, float] = field(repr=False)
    exact: bool


@checked
@torch.no_grad()
def align(plan: Analysis, a: nn.Module | Mapping[str, Tensor], b: nn.Module | Mapping[str, Tensor]) -> Alignment:
    """Find the change of basis that maps weights `a` onto weights `b`, or as near to them as descent comes.

    One that maps most weights to within 1 % is returned as it is: the others are taken to have changed otherwise. Any
    other result is a local minimum of the distance, and no farther from `b` than `a` is.

    Args:
        plan: of a model with these parameters; its mode says which values may be negative.
        a: a network or state dict, the weights that are mapped.
        b: the weights that they are mapped onto.

    Raises:
        InputError: an argument is no plan, or no network or weights; a parameter is missing or has another shape.
        ModelError: an index buffer is not the planned one.
    """
    require_plan(plan)
    first, second = (_tensors(plan, x) for x in (a, b))
    pairs = [Pair(plan.constrained.tensors[n], first[n], second[n]) for n in _moving(plan, first)]
    allows = torch.from_numpy(plan.solution.allows)
    matrix, movable, signed = exponents(plan.solution), allows != UNIT, allows != POSITIVE
    logs = magnitudes(matrix, pairs, movable)
    votes = [p.votes(plan.solution.tau(logs.exp())) for p in pairs]
    closed = signs(matrix, votes, signed) * logs.exp()
    alignment = _described(plan, closed, first, second)
    if not pairs or alignment.exact:
        return alignment
    sign = closed.sign()
    robust = sign * refined(matrix, pairs, movable, logs, lambda x: plan.solution.tau(sign * x.exp())).exp()
    if _explains(plan, pairs, robust):
        return _described(plan, robust, first, second)
    norm = sum(float(p.b.square().sum()) for p in pairs)
    distance = Distance([share(p) for p in pairs], matrix, movable, signed, max(norm, _TINY), plan.solution.tau)
    identity = torch.ones_like(closed)
    starts = (identity, signs(matrix, distance.votes(identity), signed), robust)
    _, values = min(map(distance.descended, starts), key=lambda end: end[0])
    return _described(plan, values, first, second)


def _explains(plan: Analysis, pairs: Sequence[Pair], values: Tensor) -> bool:
    """True if more than half of the weights are mapped to within 1 %, not counting one weight for each free value."""
    tau = plan.solution.tau(values)
    met = [((p.there(tau) - p.b).abs() <= _NEAR * p.b.abs())[p.b != 0] for p in pairs]  # two zeros say nothing
    return 2 * sum(int(m.sum()) for m in met) > sum(m.numel() for m in met) + plan.num_free


def _described(plan: Analysis, values: Tensor, first: dict[str, Tensor], second: dict[str, Tensor]) -> Alignment:
    cob = ChangeOfBasis(values, plan.fingerprint)
    factors = scales(plan, cob)
    gaps = {n: float((first[n] * factors.get(n, 1.0) - b).norm()) for n, b in second.items()}
    sizes = {n: float(b.norm()) for n, b in second.items()}
    own = {n: float((first[n] - b).norm()) for n, b in second.items()}
    total = max(_root(sizes), np.finfo(float).tiny)
    distances = {n: gap / max(sizes[n], np.finfo(float).tiny) for n, gap in gaps.items()}
    after = _root(gaps) / total
    return Alignment(cob, _root(own) / total, after, distances, after < _EXACT)


def _root(values: Mapping[str, float]) -> float:
    return float(np.sqrt(sum(v * v for v in values.values())))


def _tensors(plan: Analysis, given: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters under the names of the plan (tied ones once), float64 on the CPU."""
    if isinstance(given, nn.Module):
        held: Mapping[str, Tensor] = dict(named_tensors(modules_of(given)))
    else:
        require_weights(given)
        held = given
    for name in plan.planned.values.keys() & held.keys():
        plan.planned.require_value(name, held[name])
    parameters = {}
    for name, parameter in plan.captured.model.named_parameters():
        if name not in held:
            raise InputError(f"there is no parameter '{name}' to align: give all that the plan was made with")
        if held[name].shape != parameter.shape:
            raise InputError(
                f"parameter '{name}' has shape {tuple(held[name].shape)}, the plan was made with"
                f" {tuple(parameter.shape)}"
            )
        if parameter.is_floating_point():
            parameters[name] = held[name].detach().to("cpu", torch.float64)
    return parameters


def _moving(plan: Analysis, tensors: Mapping[str, Tensor]) -> list[str]:
    known, canonical = plan.constrained.tensors, plan.captured.canonical
    return [n for n in tensors if canonical[n] == n and n in known and known[n].factors and tensors[n].numel()]
