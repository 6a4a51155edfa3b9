"""The descent of an alignment: the squared distance itself, in the magnitudes and the signs of the free values.

A parameter's share is sum (a s - b)^2 = sum A s^2 - 2 C s + B with s = prod_k tau_k ** e_k, so that weights with the
same factor enter by A = sum a^2 and C = sum a b alone. For given signs the logs of the magnitudes follow the gradient
(L-BFGS); for given magnitudes a sign changes the distance by C |s|, its vote. The two steps alternate, and each lowers
the distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxteleport.align.magnitudes import Pair, Votes, spread_back, summed
from fxteleport.align.signs import signs
from fxteleport.passes.domain.cob_map import CobMap

_TURNS = 20  # of magnitudes and signs
_STEPS = 200  # of L-BFGS
_LITTLE = 1e-7  # of the squared norm of b: a smaller gain is none
_FAR = 20.0  # the largest change of a log: products of the values stay finite


@dataclass(frozen=True)
class Share:
    """One parameter's share of the squared distance: sum square s^2 - 2 cross s, and a constant."""

    cob: CobMap
    square: Tensor
    cross: Tensor


def share(pair: Pair) -> Share:
    """The share of one parameter; elements with the same factor are summed."""
    factors = [s for s, _ in pair.cob.factors]
    return Share(pair.cob, summed(pair.a.square(), factors), summed(pair.a * pair.b, factors))


@dataclass(frozen=True)
class Distance:
    """The squared distance of the teleported `a` to `b`, up to a constant, as a function of the free values.

    Attributes:
        shares: of the parameters that move.
        matrix: every symbol's exponents of the free values.
        movable, signed: the free values whose magnitude, and those whose sign, may change.
        squared_norm: the squared norm of `b`, the unit of gains.
        tau: free values -> the value of every symbol.
    """

    shares: Sequence[Share]
    matrix: Any
    movable: Tensor
    signed: Tensor
    squared_norm: float
    tau: Callable[[Tensor], Tensor]

    def at(self, values: Tensor) -> tuple[float, Tensor]:
        """The distance, and its gradient in the logs of the free values' magnitudes."""
        tau, total = self.tau(values), 0.0
        into = torch.zeros(self.matrix.shape[0], dtype=torch.float64)
        for share in self.shares:
            scale = share.cob.scale(tau)
            assert scale is not None
            pull = share.square * scale - share.cross
            slope = pull * scale
            total += float((slope - share.cross * scale).sum())
            spread_back(share.cob.factors, 2 * slope, into)
        gradient = torch.from_numpy(self.matrix.T @ into.numpy())
        return total, torch.where(self.movable, gradient, 0.0)

    def votes(self, values: Tensor) -> list[Votes]:
        """For each product of signs: by how much a positive sign lowers the distance, at these magnitudes."""
        tau = self.tau(values.abs())
        of_shares = []
        for share in self.shares:
            scale = share.cob.scale(tau)
            assert scale is not None
            odd = [s for s, e in share.cob.factors if e % 2]
            of_shares.append(Votes(odd, summed(share.cross * scale, odd)))
        return of_shares

    def descended(self, values: Tensor) -> tuple[float, Tensor]:
        """The distance and the values of a local minimum, which is no larger than at the start."""
        reached, values = self._slid(values)
        for _ in range(_TURNS):
            sign = signs(self.matrix, self.votes(values), self.signed, values.sign())
            if torch.equal(sign, values.sign()):
                break
            trial, trial_values = self._slid(sign * values.abs())
            if not trial < reached:
                break
            gain, reached, values = reached - trial, trial, trial_values
            if gain < _LITTLE * self.squared_norm:
                break
        return reached, values

    def _slid(self, values: Tensor) -> tuple[float, Tensor]:
        """Minimise over the logs of the magnitudes, with fixed signs."""
        from scipy.optimize import minimize

        sign, start = values.sign(), values.abs().log()

        def objective(logs: Any) -> tuple[float, Any]:
            cost, gradient = self.at(sign * torch.from_numpy(logs).exp())
            return cost / self.squared_norm, (gradient / self.squared_norm).numpy()

        before = self.at(values)[0]
        if not bool(self.movable.any()):
            return before, values
        reach = np.where(self.movable.numpy(), _FAR, 0.0)
        bounds = np.stack([start.numpy() - reach, start.numpy() + reach], 1)
        options = {"maxiter": _STEPS, "ftol": _LITTLE, "gtol": 0.0}
        result = minimize(objective, start.numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        after = float(result.fun) * self.squared_norm
        return (after, sign * torch.from_numpy(result.x).exp()) if after < before else (before, values)
