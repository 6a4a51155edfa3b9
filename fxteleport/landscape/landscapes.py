"""Loss landscapes in one and two dimensions, around any weights, teleported or not.

Directions are filter-normalised as in Li et al., "Visualizing the loss landscape of neural nets" (Section 4): each
filter of a direction gets the norm of the network's filter, so that the scale of the weights does not look like
flatness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxteleport.arguments import require_number, require_weights
from fxteleport.checked import checked
from fxteleport.landscape.curvature import LossOfWeights
from fxteleport.passes.errors import InputError
from fxteleport.plan.teleported_point import Weights


@dataclass(frozen=True)
class Plane:
    """The plane of the two main directions of a trajectory.

    Attributes:
        center: the last weights of the trajectory.
        directions: two orthonormal directions.
        coordinates: float64 [steps, 2]: the trajectory in the plane.
        explained: float64 [2]: the shares of the trajectory's variance.
    """

    center: Weights
    directions: tuple[Weights, Weights]
    coordinates: Tensor
    explained: Tensor


@checked
def random_direction(weights: Mapping[str, Tensor], seed: int = 0, normalize: bool = True) -> Weights:
    """A Gaussian direction; with `normalize` filter-normalised, and zero for vectors (biases, gains)."""
    require_weights(weights)
    generator = torch.Generator().manual_seed(seed)
    drawn = {n: torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w) for n, w in weights.items()}
    return filter_normalized(drawn, weights) if normalize else drawn


@checked
def filter_normalized(direction: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Weights:
    """The direction with every filter (row of a weight) as long as the weights' own; zero for vectors."""
    require_weights(weights, like=direction)
    return {n: _normalized(d, weights[n]) for n, d in direction.items()}


def _normalized(direction: Tensor, weight: Tensor) -> Tensor:
    if direction.ndim < 2:
        return torch.zeros_like(direction)
    length, goal = (t.flatten(1).norm(dim=1).view(-1, *[1] * (t.ndim - 1)) for t in (direction, weight))
    scaled: Tensor = direction * goal / length.clamp_min(torch.finfo(direction.dtype).tiny)
    return scaled


@checked
def interpolate(start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float) -> Weights:
    """(1 - alpha) start + alpha end."""
    require_weights(start, what="the first weights")
    require_weights(end, like=start, what="the second weights")
    return {n: torch.lerp(w.detach(), end[n].detach(), alpha) for n, w in start.items()}


@checked
def moved(center: Mapping[str, Tensor], *steps: tuple[float, Mapping[str, Tensor]]) -> Weights:
    """The centre plus each direction times its step; weights that a direction does not name are unchanged."""
    require_weights(center)
    for _, direction in steps:
        require_weights(direction, what="the direction")
    weights = {n: w.detach() for n, w in center.items()}
    for size, direction in steps:
        weights |= {n: weights[n] + size * d for n, d in direction.items()}
    return weights


@checked
@torch.no_grad()
def line(
    loss: LossOfWeights, start: Mapping[str, Tensor], end: Mapping[str, Tensor], alphas: Sequence[float]
) -> Tensor:
    """The loss along (1 - alpha) start + alpha end; float64 [alphas]."""
    return torch.tensor([_number(loss(interpolate(start, end, a))) for a in alphas], dtype=torch.float64)


@checked
@torch.no_grad()
def surface(
    loss: LossOfWeights,
    center: Mapping[str, Tensor],
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    xs: Sequence[float],
    ys: Sequence[float],
) -> Tensor:
    """The loss on centre + x first + y second; float64 [ys, xs]."""
    rows = [[_number(loss(moved(center, (x, first), (y, second)))) for x in xs] for y in ys]
    return torch.tensor(rows, dtype=torch.float64)


def _number(value: object) -> float:
    return float(require_number(value, "the loss"))


@checked
def pca_plane(trajectory: Sequence[Mapping[str, Tensor]]) -> Plane:
    """The plane that holds most of a training trajectory, seen from its last weights (Li et al., Section 7)."""
    if not len(trajectory):
        raise InputError("the trajectory is empty: pass the weights of some steps")
    for weights in trajectory:
        require_weights(weights)
    last = {n: w.detach() for n, w in trajectory[-1].items()}
    rows = torch.stack([torch.cat([(w[n] - last[n]).reshape(-1).double() for n in last]) for w in trajectory])
    centred = rows - rows.mean(0)
    # Principal directions from the small Gram matrix: a trajectory has far fewer steps than weights.
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    main = vectors[:, -2:].flip(1)
    axes = centred.T @ main
    axes = axes / axes.norm(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
    shares = values.flip(0)[:2].clamp_min(0) / values.clamp_min(0).sum()
    sizes = [w.numel() for w in last.values()]
    first, second = (
        {n: part.reshape(w.shape).to(w) for (n, w), part in zip(last.items(), axis.split(sizes), strict=True)}
        for axis in axes.T
    )
    return Plane(last, (first, second), rows @ axes, shares)
