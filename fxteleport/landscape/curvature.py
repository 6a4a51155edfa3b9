"""Curvature of a loss in weight space: Hessian-vector products, the top eigenvalue and the trace.

Everything takes a function of weights, `at(network, loss)`; of a teleported network, `around(point, loss)`. Under a
teleportation by D the Hessian becomes D^-1 H D^-1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vjp

from fxteleport.plan.teleported_point import Loss, Point, Weights, isolated

LossOfWeights = Callable[[Weights], Tensor]


def at(network: nn.Module, loss: Loss) -> LossOfWeights:
    """The loss as a function of the network's weights. In eval mode, where batch norm is a plain function."""
    return lambda weights: loss(isolated(network, weights))


def around(point: Point, loss: Loss) -> LossOfWeights:
    """The loss as a function of a teleported network's weights."""
    return lambda weights: point.loss(loss, weights)


def trainable(network: nn.Module) -> Weights:
    """A network's trainable parameters by name, detached."""
    return {n: p.detach() for n, p in network.named_parameters() if p.requires_grad}


def hvp(loss: LossOfWeights, weights: Weights, vector: Weights) -> Weights:
    """The Hessian of the loss at the weights, times a vector (reverse over reverse; the Hessian is symmetric)."""
    pull: Any = vjp(grad(loss), weights)[1]
    product: Weights = pull(vector)[0]
    return product


def top_eigenvalue(
    loss: LossOfWeights, weights: Weights, iterations: int = 100, tolerance: float = 1e-6, seed: int = 0
) -> tuple[float, Weights]:
    """The eigenvalue of the Hessian that is largest in magnitude, with its unit eigenvector, by power iteration.

    Stops when the eigenvalue changes by less than `tolerance`, relatively.
    """
    vector = _unit(_random(weights, seed, torch.randn))
    value = 0.0
    for _ in range(iterations):
        product = hvp(loss, weights, vector)
        found = float(dot(vector, product))
        size = float(dot(product, product)) ** 0.5
        if size == 0:
            return 0.0, vector
        vector = {n: p / size for n, p in product.items()}
        if abs(found - value) <= tolerance * abs(found):
            return found, vector
        value = found
    return value, vector


def trace(loss: LossOfWeights, weights: Weights, samples: int = 32, seed: int = 0) -> tuple[float, float]:
    """The trace of the Hessian and its standard error: Hutchinson's estimate, the mean of v H v over signs v."""
    found = []
    for i in range(samples):
        vector = _random(weights, seed + i, lambda *a, **k: torch.randint(0, 2, *a, **k) * 2.0 - 1.0)
        found.append(float(dot(vector, hvp(loss, weights, vector))))
    values = torch.tensor(found, dtype=torch.float64)
    return float(values.mean()), float(values.std() / samples**0.5) if samples > 1 else float("nan")


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """The inner product of two sets of weights, float64."""
    return torch.stack([(x.double() * b[n].double()).sum() for n, x in a.items()]).sum()


def _random(weights: Weights, seed: int, draw: Callable[..., Tensor]) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {n: draw(w.shape, generator=generator, dtype=torch.float64).to(w) for n, w in weights.items()}


def _unit(vector: Weights) -> Weights:
    size = dot(vector, vector).sqrt()
    return {n: v / size.to(v) for n, v in vector.items()}
