"""Fit range: powers of two with which every value and weight stays inside a number format.

plan + data -> largest magnitude of every channel -> integer inequalities -> integer program -> ChangeOfBasis

The program minimises overflow first, then values below the normal range, then the change, sum |k|. Each
bound is on one channel or on the difference of two (a weight's row and column), for which linear programs have integer
solutions; HiGHS solves it (Huangfu and Hall, "Parallelizing the dual revised simplex method"). The result is then
measured on the data, in the model's own format and in the target format.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import optimize, sparse
from torch import Tensor, fx

from fxteleport.checked import checked
from fxteleport.passes.capture.meta_values import tree_map
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.domain.solution import UNIT
from fxteleport.passes.errors import InputError, ModelError, NothingFree
from fxteleport.passes.graph.node_info import info
from fxteleport.plan.analysis import Analysis
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.emission import rewrite
from fxteleport.plan.factors import tau
from fxteleport.plan.free_values import check, identity
from fxteleport.plan.model_snapshot import ModelSnapshot
from fxteleport.plan.weights import matching_tensors, require_planned
from fxteleport.ranges.range_bounds import Bounds, by_symbol, extremes, limits, slots_of, varying
from fxteleport.ranges.range_report import MASK, RangeRow, range_report, run_each

_SECONDS = 60.0  # for all rounds of solving
_LEAST = 1.0  # seconds of a round
_FARTHEST = 60  # doublings
_ROUNDS = 8  # of solving: other elements of weights become the largest on the way
_OVERFLOW, _SUBNORMAL = 1e6, 1e2  # the cost of a doubling outside of the format, in doublings of a free value
_NAMED = 4  # values of an error message
Told = Callable[[str], None]


@checked
def fit_range(
    plan: Analysis,
    data: Iterable[Any],
    dtype: torch.dtype = torch.float16,
    headroom: float = 2.0,
    progress: Told = lambda _: None,
    time_limit: float = _SECONDS,
) -> ChangeOfBasis:
    """A change of basis of powers of two with which no value and no weight overflows in a number format.

    The function is the same to the last bit, in the model's own format. `range_report` shows what changed. Channels are
    lifted into the format's normal range as far as the plan's free values allow.

    Args:
        plan: of a model with weights, in either mode, in a format in which it is finite.
        data: batches to measure on, each as the model's forward takes it. They are read several times and held in
            memory.
        dtype: the floating-point format that the model is to be converted to.
        headroom: how many times larger than on these data values may be on others, at least 1. Not for weights.
        progress: called with the name of the next step.
        time_limit: seconds that the solver may take in all. After them, its best solution is taken: it is checked in
            the same way, but it may change more than needed.

    Raises:
        NothingFree: the plan has no free magnitude.
        InputError: invalid settings; data are missing or do not fit, or give NaN; the solver found no solution in time;
            or no change of basis of the plan suffices: then the message names the values.
        ModelError: the model is on the meta device or has changed since it was planned; weights are integers or NaN.
    """
    require_format(dtype, headroom)
    if not time_limit > 0:
        raise InputError(f"time_limit is a number of seconds above 0, got {time_limit}")
    require_planned(plan)
    if not plan.num_free or (plan.solution.allows == UNIT).all():
        raise NothingFree(
            "nothing in this plan is free to be scaled, so no range can be fitted: `plan.groups` says why"
        )
    kept = list(data)
    weights = matching_tensors(plan.captured, ModelSnapshot(plan.captured.model).tensors)
    _require_numbers(weights)
    progress("calibrating")
    bounds = Bounds(plan.num_free)
    limit = torch.finfo(dtype)
    for cob_map, size in _values(plan, kept).values():
        positions = torch.arange(size.numel())
        bounds.add(
            slots_of(plan, cob_map, positions, size.shape), *limits(size.reshape(-1), limit.max / headroom, limit.tiny)
        )
    sizes = _weights(plan, weights)
    for cob_map, size in sizes.values():
        _add_weights(plan, bounds, cob_map, size, extremes(size), limit)
    end = time.monotonic() + time_limit
    for i in range(_ROUNDS):
        progress(f"solving {i + 1}")
        cob = ChangeOfBasis(
            torch.from_numpy(np.exp2(_solved(plan, bounds, max(end - time.monotonic(), _LEAST)))), plan.fingerprint
        )
        check(plan, cob)
        if time.monotonic() > end or not _cut(plan, bounds, sizes, tau(plan, cob), limit):
            break
    progress("measuring")
    _require_fit(plan, cob, kept, dtype, headroom)
    return cob


def require_format(dtype: torch.dtype, headroom: float) -> None:
    """Raise InputError for invalid settings."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"dtype is a floating-point format such as torch.float16, got {dtype!r}")
    if not 1 <= headroom < torch.finfo(dtype).max:
        raise InputError(f"headroom is a factor from 1 on that the format's range holds, got {headroom}")


def _require_numbers(weights: dict[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()) and bool(tensor.isnan().any()):
            raise ModelError(f"'{name}' holds NaN, which has no range: mend the weights first")


def _values(plan: Analysis, data: Sequence[Any]) -> dict[str, tuple[CobMap, Tensor]]:
    """The maps of the graph's values, and the largest magnitude of each part that has a CoB of its own."""
    maps = {n.name: m for n, m in plan.constrained.maps.items() if isinstance(m, CobMap)}
    values: dict[str, tuple[CobMap, Tensor]] = {}

    def note(node: fx.Node, value: Tensor) -> None:
        name = info(node).captured or node.name
        if bool(value.isnan().any()):
            raise InputError(f"the values of '{name}' are NaN: there are no ranges to measure")
        cob_map = maps.get(name)
        if cob_map is None or not cob_map.factors:
            return
        shape = varying(cob_map, value.ndim)
        if any(n not in (1, m) for n, m in zip(shape, value.shape, strict=True)):
            return  # it varies along an axis whose size depends on the data: it is measured afterwards
        size = by_symbol(torch.where(value.abs() < MASK, value, 0.0), shape)
        values[name] = cob_map, torch.maximum(size, values[name][1]) if name in values else size

    run_each(rewrite(plan, identity(plan)), data, note)
    return values


def _weights(plan: Analysis, weights: dict[str, Tensor]) -> dict[str, tuple[CobMap, Tensor]]:
    largest_of = {}
    for name, tensor in weights.items():
        cob_map = plan.tensor_map(name)
        if cob_map is not None and cob_map.factors and tensor.is_floating_point():
            kept = torch.where(tensor.abs() < MASK, tensor, 0.0)
            largest_of[name] = cob_map, by_symbol(kept, varying(cob_map, tensor.ndim))
    return largest_of


def _add_weights(plan: Analysis, bounds: Bounds, cob_map: CobMap, size: Tensor, at: Tensor, limit: torch.finfo) -> None:
    low, high = limits(size.reshape(-1), limit.max, limit.tiny)
    if sum(n > 1 for n in size.shape) < 2:  # biases and gains, which may be subnormal: the values they act on are not
        low = torch.full_like(low, -torch.inf)
    bounds.add(slots_of(plan, cob_map, at, size.shape), low[at], high[at])


def _cut(
    plan: Analysis,
    bounds: Bounds,
    sizes: dict[str, tuple[CobMap, Tensor]],
    symbols: Tensor,
    limit: torch.finfo,
) -> bool:
    """Add bounds on the elements of weights that overflow with the current solution; False if there are none."""
    some = False
    for cob_map, size in sizes.values():
        factor = cob_map.scale(symbols)
        over = (size * (1.0 if factor is None else factor)).reshape(-1) > limit.max
        if bool(over.any()):
            before = len(bounds.terms)
            _add_weights(plan, bounds, cob_map, size, over.nonzero()[:, 0], limit)
            some |= len(bounds.terms) > before
    return some


def _solved(plan: Analysis, bounds: Bounds, seconds: float) -> Any:
    """The integers k with the least overflow and underflow and then the least sum |k|: float64 [num_free].

    Variables: k = up - down, a slack above and one below for each inequality.
    """
    matrix, low, high = bounds.matrix()
    rows, free = matrix.shape
    still = plan.solution.allows == UNIT
    eye, none = sparse.identity(rows), sparse.csr_matrix((rows, rows))
    constraints = [
        optimize.LinearConstraint(sparse.hstack([matrix, -matrix, -eye, none]).tocsr(), -np.inf, high),
        optimize.LinearConstraint(sparse.hstack([matrix, -matrix, none, eye]).tocsr(), low, np.inf),
    ]
    cost = np.concatenate([np.ones(2 * free), np.full(rows, _OVERFLOW), np.full(rows, _SUBNORMAL)])
    most = np.concatenate([np.tile(np.where(still, 0, _FARTHEST), 2), np.full(2 * rows, np.inf)])
    whole_numbers = np.concatenate([np.ones(2 * free), np.zeros(2 * rows)])
    result = optimize.milp(
        cost,
        integrality=whole_numbers,
        bounds=optimize.Bounds(0, most),
        constraints=constraints if rows else (),
        options={"time_limit": seconds},
    )
    if result.x is None:
        raise InputError(f"no powers of two were result for these ranges: {result.message}")
    return np.round(result.x[:free] - result.x[free : 2 * free])


def _require_fit(plan: Analysis, cob: ChangeOfBasis, data: Sequence[Any], dtype: torch.dtype, headroom: float) -> None:
    """Raise InputError, which names values, unless all measured values fit and the converted network is finite."""
    limit = torch.finfo(dtype).max
    report = range_report(plan, cob, data, dtype)
    outside = [row for row in report if row.after.largest > (limit if row.is_weight else limit / headroom)]
    if outside:
        raise InputError(_said(outside, dtype, headroom))
    wrong = _not_finite(plan, cob, data, dtype)
    if wrong:
        raise InputError(
            f"'{wrong}' is not finite in {_name(dtype)}, though its inputs fit: its operation computes with larger"
            " numbers inside, which no change of basis moves"
        )


def _said(outside: list[RangeRow], dtype: torch.dtype, headroom: float) -> str:
    worst = sorted(outside, key=lambda row: -row.after.largest)[:_NAMED]
    names = ", ".join(f"'{row.name}' ({row.after.largest:.3g})" for row in worst)
    more = f" and {len(outside) - len(worst)} more" if len(outside) > len(worst) else ""
    return (
        f"no change of basis of this plan keeps {names}{more} inside {_name(dtype)} (at most"
        f" {torch.finfo(dtype).max:.5g}, values with headroom {headroom:g}): they are pinned or tied to others;"
        " `fxteleport inspect` says by what. Take mode='full', less headroom, or bfloat16"
    )


def _not_finite(plan: Analysis, cob: ChangeOfBasis, data: Sequence[Any], dtype: torch.dtype) -> str:
    """The first node whose value is finite in the model's own format, but not in the target; "" for none."""
    network = rewrite(plan, cob)
    converted = copy.deepcopy(network).to(dtype)
    finite: list[bool] = []
    run_each(network, data, lambda _, value: finite.append(bool((value.abs() < MASK).all())))
    names: list[str] = []
    is_finite = iter(finite)

    def note(node: fx.Node, value: Tensor) -> None:
        if next(is_finite, False) and not bool(value.isfinite().all()):
            names.append(info(node).captured or node.name)

    run_each(converted, [tree_map(lambda x: _converted(x, dtype), batch) for batch in data], note)
    return names[0] if names else ""


def _converted(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
