"""Curvature of a loss in weight space: Hessian-vector products, the top eigenvalue and the trace.

All take the loss as a function of weights: `at(network, loss)` or, for a teleported network, `around(point, loss)`.
Under a teleportation by D the Hessian becomes D^-1 H D^-1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import grad, vjp

from fxteleport.arguments import require_callable, require_module, require_number, require_weights
from fxteleport.checked import checked
from fxteleport.passes.errors import InputError
from fxteleport.plan.teleported_point import Loss, Point, Weights, isolated, require_loss

Array = np.ndarray[Any, np.dtype[np.float64]]
LossOfWeights = Callable[[Weights], Tensor]


@checked
def at(network: nn.Module, loss: Loss) -> LossOfWeights:
    """The loss as a function of the network's weights. In eval mode, where batch norm is a plain function."""
    require_module(network, "the network")
    require_loss(loss)
    return lambda weights: loss(isolated(network, weights))


@checked
def around(point: Point, loss: Loss) -> LossOfWeights:
    """The loss as a function of a teleported network's weights."""
    require_loss(loss)
    return lambda weights: point.loss(loss, weights)


@checked
def trainable(network: nn.Module) -> Weights:
    """A network's trainable parameters by name, detached."""
    require_module(network, "the network")
    return {n: p.detach() for n, p in network.named_parameters() if p.requires_grad}


@checked
def hvp(loss: LossOfWeights, weights: Weights, vector: Weights) -> Weights:
    """The Hessian of the loss at the weights, times a vector (reverse over reverse; the Hessian is symmetric)."""
    _require(loss, weights)
    require_weights(vector, like=weights, what="the vector")

    def value(at: Weights) -> Any:
        return require_number(loss(at), "the loss")

    pull: Any = vjp(grad(value), weights)[1]
    product: Weights = pull(vector)[0]
    return product


@checked
def top_eigenvalue(
    loss: LossOfWeights, weights: Weights, iterations: int = 100, tolerance: float = 1e-6, seed: int = 0
) -> tuple[float, Weights]:
    """The eigenvalue of the Hessian that is largest in magnitude, with its unit eigenvector, by Lanczos (ARPACK).

    Holds eight vectors of the weights' length on the CPU, in float64.

    Args:
        iterations: the most restarts, of up to eight Hessian-vector products each.
        tolerance: the relative tolerance of the eigenvalue.
        seed: of the start vector.

    Raises:
        InputError: it did not converge within the iterations.
    """
    _require(loss, weights)
    if iterations < 1:
        raise InputError(f"iterations={iterations}: take a number from 1")
    if not tolerance >= 0:
        raise InputError(f"tolerance={tolerance}: take a number from 0")
    start = _random(weights, seed, torch.randn)
    size = float(dot(first := hvp(loss, weights, start), first)) ** 0.5
    if size == 0 or not math.isfinite(size):  # ARPACK takes neither
        return 0.0 * size, _unit(start)
    direction = _flat(start)
    if len(direction) > 1:
        operator = LinearOperator(
            (len(direction), len(direction)),
            matvec=lambda vector: _flat(hvp(loss, weights, _shaped(vector, weights))),
            dtype=np.float64,
        )
        try:
            _, vectors = eigsh(
                operator, 1, v0=direction, ncv=min(_BASIS, len(direction)), maxiter=iterations, tol=tolerance
            )
        except ArpackNoConvergence:
            raise InputError(
                f"the top eigenvalue was not found within {iterations} iterations: allow more `iterations` or a larger"
                " `tolerance`"
            ) from None
        direction = vectors[:, 0]
    vector = _unit(_shaped(direction, weights))
    return float(dot(vector, hvp(loss, weights, vector))), vector


_BASIS = 8  # vectors that Lanczos keeps: with fewer it restarts often, with more it needs more memory


@checked
def trace(loss: LossOfWeights, weights: Weights, samples: int = 32, seed: int = 0) -> tuple[float, float]:
    """The trace of the Hessian and its standard error: Hutchinson's estimate, the mean of v H v over signs v."""
    _require(loss, weights)
    if samples < 1:
        raise InputError(f"samples={samples}: take a number from 1")
    estimates = []
    for i in range(samples):
        vector = _random(weights, seed + i, lambda *a, **k: torch.randint(0, 2, *a, **k) * 2.0 - 1.0)
        estimates.append(float(dot(vector, hvp(loss, weights, vector))))
    values = torch.tensor(estimates, dtype=torch.float64)
    return float(values.mean()), float(values.std() / samples**0.5) if samples > 1 else float("nan")


@checked
def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """The inner product of two sets of weights, float64."""
    return torch.stack([(x.double() * b[n].double()).sum() for n, x in a.items()]).sum()


def _require(loss: object, weights: object) -> None:
    """Raise InputError unless the loss is a function and the weights are tensors by name."""
    require_callable(loss, "the loss", "a function of weights: curvature.at(network, loss)")
    require_weights(weights)


def _random(weights: Weights, seed: int, draw: Callable[..., Tensor]) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {n: draw(w.shape, generator=generator, dtype=torch.float64).to(w) for n, w in weights.items()}


def _unit(vector: Weights) -> Weights:
    size = dot(vector, vector).sqrt()
    return {n: v / size.to(v) for n, v in vector.items()}


def _flat(weights: Weights) -> Array:
    """All weights in one vector, float64."""
    vector: Array = torch.cat([w.detach().reshape(-1).cpu().double() for w in weights.values()]).numpy()
    return vector


def _shaped(vector: Array, like: Weights) -> Weights:
    """A vector as weights."""
    parts = torch.from_numpy(vector).split([w.numel() for w in like.values()])
    return {name: part.view(w.shape).to(w) for part, (name, w) in zip(parts, like.items(), strict=True)}
