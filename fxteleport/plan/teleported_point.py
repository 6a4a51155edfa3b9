"""A teleported point in weight space: the weights there, and the network's function, loss and gradients around them.

Teleportation maps one parameter space onto another, W' = D W with D diagonal, and keeps the function. So the
teleported network with *any* weights V computes what the original computes with V / D: no network has to be emitted to
explore the teleported landscape, and all of it is differentiable in D, that is in the change of basis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fxteleport.arguments import require_callable, require_scalar
from fxteleport.checked import checked
from fxteleport.plan.analysis import Analysis
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.factors import scales
from fxteleport.plan.weights import require_planned

Weights = dict[str, Tensor]
Network = Callable[..., Any]
Loss = Callable[[Network], Tensor]
"""A loss holds its data: it is given the network to call, and returns a scalar."""


def require_loss(value: object) -> None:
    """Raise InputError unless a loss is a function."""
    require_callable(value, "the loss", "a function of the network, as lambda net: F.cross_entropy(net(x), y)")


class Point:
    """Weights with which a network computes the same function.

    Args:
        network: the original; its parameters are read, never written.
        scales: {parameter name: factor}, as of `plan.scales(cob)`; names that are missing have the factor 1.
    """

    def __init__(
        self, network: nn.Module, scales: Mapping[str, Tensor], known: dict[Any, Weights] | None = None
    ) -> None:
        self.network = network
        self.scales = {n: scales[n].to(p) for n, p in network.named_parameters() if n in scales}
        self._known = {} if known is None else known

    @property
    def weights(self) -> Weights:
        """The teleported parameters, differentiable in the scales."""
        return {n: self.teleported(n, p.detach()) for n, p in self.network.named_parameters()}

    def teleported(self, name: str, value: Tensor, power: int = 1) -> Tensor:
        """A tensor of one parameter's shape, times the parameter's factor to a power."""
        scale = self.scales.get(name)
        return value if scale is None else value * (scale if power == 1 else scale**power)

    def __call__(self, *inputs: Any, weights: Weights | None = None, **keyword_inputs: Any) -> Any:
        """The teleported network's output, with its own weights or with others."""
        given = self.weights if weights is None else weights
        own = {n: self.teleported(n, w, -1) for n, w in given.items()}
        return functional_call(self.network, own, inputs, keyword_inputs)

    def loss(self, loss: Loss, weights: Weights | None = None) -> Tensor:
        """The loss of the teleported network, with its own weights or with others."""
        require_loss(loss)
        return loss(lambda *inputs, **keyword_inputs: self(*inputs, weights=weights, **keyword_inputs))

    def gradients(self, loss: Loss) -> Weights:
        """The gradients at the teleported weights: the original's over the scales (paper, Theorem 5.1).

        Differentiable in the scales without a second backward pass.
        """
        if loss not in self._known:
            self._known[loss] = gradients(self.network, loss)
        return {n: self.teleported(n, g, -1) for n, g in self._known[loss].items()}


def at(plan: Analysis, cob: ChangeOfBasis) -> Point:
    """The model's weights, function and gradients after a change of basis, differentiable in `cob.values`."""
    require_planned(plan)
    return Point(plan.captured.model, scales(plan, cob))


@checked
def gradients(network: nn.Module, loss: Loss) -> Weights:
    """The gradients of a loss for every trainable parameter, zero for unused ones. Buffers do not change."""
    require_loss(loss)
    names, parameters = zip(*((n, p) for n, p in network.named_parameters() if p.requires_grad), strict=True)
    with torch.enable_grad():
        value = require_scalar(loss(isolated(network)), "the loss")
    slopes = torch.autograd.grad(value, parameters, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, slopes, strict=True)}


def isolated(network: nn.Module, weights: Weights | None = None) -> Network:
    """The network with these weights (or its own), as a function that does not update its running statistics."""

    def call(*inputs: Any, **keyword_inputs: Any) -> Any:
        buffers = {n: b.clone() for n, b in network.named_buffers()}
        return functional_call(network, {**buffers, **(weights or {})}, inputs, keyword_inputs)

    return call
