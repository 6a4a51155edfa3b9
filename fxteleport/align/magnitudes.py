"""The magnitudes of an alignment: least squares in the logs of the free values, without a row for each weight.

Noise of a given size on b changes log |b| in proportion to 1 / |b|, so equations are weighted by b^2 (relative to their
tensor), and reweighted (Huber) against outliers. Weights that share a factor (the positions of a kernel) are one
equation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.domain.solution import Solution

_ROUNDS = 4  # of reweighting
_STEPS = 10  # of Gauss-Newton
_TINY = 1e-300


@dataclass(frozen=True)
class Pair:
    """One parameter's map, and its values in the two networks, float64."""

    cob: CobMap
    a: Tensor
    b: Tensor

    def equation(self) -> Equation:
        """Its weighted log-ratios; where one of the two values is 0 the weight is 0."""
        usable = (self.a != 0) & (self.b != 0) & torch.isfinite(self.a) & torch.isfinite(self.b)
        ratio = torch.where(usable, self.b / torch.where(usable, self.a, 1.0), 1.0)
        square = torch.where(usable, self.b * self.b, 0.0)
        return _gathered(self.cob, ratio.abs().log(), square / square.mean().clamp_min(_TINY))

    def there(self, tau: Tensor) -> Tensor:
        """`a` after teleportation; tau of every symbol."""
        scale = self.cob.scale(tau)
        return self.a if scale is None else self.a * scale

    def votes(self, magnitude: Tensor) -> Votes:
        """For each product of odd powers: whether the sign is kept, and how surely, given every symbol's magnitude."""
        odd = [s for s, e in self.cob.factors if e % 2]
        size = torch.minimum(self.there(magnitude).abs(), self.b.abs()).square()
        strength = self.a.sign() * self.b.sign() * size / size.mean().clamp_min(_TINY)
        return Votes(odd, summed(strength, odd))

    def deviation(self, tau: Tensor) -> float:
        """The typical distance of two weights (3 robust deviations); larger ones are outliers."""
        return 3 * 1.4826 * float((self.b - self.there(tau)).abs().median())

    def cost(self, tau: Tensor, beyond: float) -> float:
        """Huber's cost: the squared distance, but linear in the distance for outliers."""
        gap = (self.b - self.there(tau)).abs()
        return float(torch.where(gap <= beyond, gap * gap, beyond * (2 * gap - beyond)).sum())

    def residual(self, tau: Tensor, beyond: float) -> Equation:
        """Huber's cost, linearised in the logs around a change of basis."""
        there = self.there(tau)
        gap = self.b - there
        weight = (beyond / gap.abs().clamp_min(_TINY)).clamp_max(1.0) * there.square()
        return _gathered(self.cob, gap / torch.where(there == 0, 1.0, there), weight)


@dataclass(frozen=True)
class Equation:
    """Elements that should equal sum_k e_k logs[symbols_k], each with a weight."""

    cob: CobMap
    goal: Tensor
    weight: Tensor

    def predicted(self, logs: Tensor) -> Tensor:
        """The right side, from the log of every symbol."""
        parts = [e * logs[s] for s, e in self.cob.factors]
        return torch.stack(torch.broadcast_tensors(*parts)).sum(0)


@dataclass(frozen=True)
class Votes:
    """One parameter's votes: for (+) or against (-) the product of its factors' signs being +."""

    factors: list[Tensor]
    strength: Tensor


def _gathered(cob: CobMap, goal: Tensor, weight: Tensor) -> Equation:
    """Elements with the same factor as one equation: their weighted mean."""
    factors = [s for s, _ in cob.factors]
    total = summed(weight, factors)
    return Equation(cob, summed(weight * goal, factors) / total.clamp_min(_TINY), total)


def summed(values: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """The sums over the axes along which no factor varies."""
    axes = [i for i, n in enumerate(values.shape) if n > 1 and all(s.shape[i] == 1 for s in factors)]
    return values.sum(axes, keepdim=True) if axes and factors else values


def exponents(solution: Solution) -> Any:
    """Every symbol's exponents of the free values, a sparse [symbols, num_free] matrix."""
    from scipy.sparse import csr_array

    n, free = len(solution.index), solution.num_free
    plain = np.setdiff1d(np.flatnonzero(solution.index < free), solution.many)
    row = np.concatenate([plain, np.repeat(solution.many, solution.many_index.shape[1])])
    column = np.concatenate([solution.index[plain], solution.many_index.reshape(-1)])
    value = np.concatenate([solution.exponent[plain], solution.many_exponent.reshape(-1)])
    kept = column < free
    return csr_array((value[kept].astype(float), (row[kept], column[kept])), shape=(n, free))


def magnitudes(matrix: Any, pairs: Sequence[Pair], movable: Tensor) -> Tensor:
    """The logs of the free values' magnitudes; 0 for a value that no weight depends on or that is not movable."""
    equations = [p.equation() for p in pairs]
    logs = torch.zeros(matrix.shape[1], dtype=torch.float64)
    if not pairs or not bool(movable.any()):
        return logs
    weighted = equations
    for _ in range(_ROUNDS):
        logs = _least_squares(matrix, weighted, movable)
        values = torch.from_numpy(matrix @ logs.numpy())
        errors = [(e.goal - e.predicted(values)).abs() * e.weight.sqrt() for e in equations]
        spread = [float(x[e.weight > 0].median()) if bool((e.weight > 0).any()) else 0.0
                  for x, e in zip(errors, equations, strict=True)]  # fmt: skip
        if max(spread) < 1e-9:  # most weights agree on a change of basis: ignore the others
            wild = [torch.where(x > 1e-6, 0.0, e.weight) for x, e in zip(errors, equations, strict=True)]
            if all(bool((w == e.weight).all()) for w, e in zip(wild, weighted, strict=True)):
                break
            weighted = [Equation(e.cob, e.goal, w) for e, w in zip(equations, wild, strict=True)]
            continue
        weighted = [  # beyond 2 robust deviations an error counts linearly
            Equation(e.cob, e.goal, e.weight * (2 * 1.4826 * s / x.clamp_min(_TINY)).clamp_max(1.0) if s else e.weight)
            for e, x, s in zip(equations, errors, spread, strict=True)
        ]
    return logs


def refined(
    matrix: Any, pairs: Sequence[Pair], movable: Tensor, logs: Tensor, tau_of: Callable[[Tensor], Tensor]
) -> Tensor:
    """The logs after Gauss-Newton steps on Huber's cost of the weights themselves."""
    tau = tau_of(logs)
    beyond = [p.deviation(tau) for p in pairs]
    best = sum(p.cost(tau, k) for p, k in zip(pairs, beyond, strict=True))
    for _ in range(_STEPS):
        equations = [p.residual(tau, k) for p, k in zip(pairs, beyond, strict=True)]
        trial = logs + _least_squares(matrix, equations, movable)
        tau = tau_of(trial)
        cost = sum(p.cost(tau, k) for p, k in zip(pairs, beyond, strict=True))
        if not cost < best:
            break
        gain, logs, best = best - cost, trial, cost
        if gain < 1e-3 * best:
            break
    return logs


def _least_squares(matrix: Any, equations: Sequence[Equation], movable: Tensor) -> Tensor:
    """Solve min sum weight (goal - sum e log tau)^2 for the logs of the free values."""
    from scipy.sparse.linalg import LinearOperator, lsqr

    roots = [e.weight.sqrt() for e in equations]
    sizes = [r.numel() for r in roots]
    # Columns are scaled to one length, which improves the condition number.
    heavy = torch.zeros(matrix.shape[0], dtype=torch.float64)
    for e in equations:
        spread_back([(s, k * k) for s, k in e.cob.factors], e.weight, heavy)
    length = torch.from_numpy((abs(matrix).T @ heavy.numpy()) ** 0.5)
    scaling = torch.where(movable & (length > 0), 1 / length.clamp_min(_TINY), 0.0).numpy()

    def forward(x: Any) -> Any:
        logs = torch.from_numpy(matrix @ (x.reshape(-1) * scaling))
        return torch.cat([(r * e.predicted(logs)).reshape(-1) for e, r in zip(equations, roots, strict=True)]).numpy()

    def adjoint(y: Any) -> Any:
        into = torch.zeros(matrix.shape[0], dtype=torch.float64)
        for e, r, part in zip(equations, roots, torch.from_numpy(np.array(y).reshape(-1)).split(sizes), strict=True):
            spread_back(e.cob.factors, r * part.view(r.shape), into)
        return (matrix.T @ into.numpy()) * scaling

    operator = LinearOperator((sum(sizes), matrix.shape[1]), matvec=forward, rmatvec=adjoint, dtype=np.float64)
    goal = torch.cat([(e.goal * r).reshape(-1) for e, r in zip(equations, roots, strict=True)]).numpy()
    return torch.from_numpy(lsqr(operator, goal, atol=1e-12, btol=1e-12, conlim=0, iter_lim=500)[0] * scaling)


def spread_back(factors: Sequence[tuple[Tensor, int]], values: Tensor, into: Tensor) -> None:
    """The adjoint of a map: add every element's value, times the exponent, to each symbol that scales it."""
    for symbols, exponent in factors:
        axes = [i for i, n in enumerate(symbols.shape) if n == 1 and values.shape[i] > 1]
        total = values.sum(axes, keepdim=True) if axes else values
        into.index_add_(0, symbols.reshape(-1), (exponent * total).expand(symbols.shape).reshape(-1))
