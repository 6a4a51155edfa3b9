"""Controls: changes of the weights that resemble a teleportation, and do not keep the function.

An effect of teleportation that these do not have is due to the function that it keeps, and not to the distance or to
the sizes of the new weights (paper, Section 5 and Fig. 10). Each returns new weights, to load or pass to
`functional_call`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fxteleport.arguments import require_weights
from fxteleport.checked import checked

Weights = dict[str, Tensor]


@checked
def pseudo_teleport(before: Mapping[str, Tensor], after: Mapping[str, Tensor], seed: int = 0) -> Weights:
    """A random point at the same distance from the weights `before` as the weights `after`, uniform on that sphere."""
    require_weights(before, what="the weights before")
    require_weights(after, like=before, what="the weights after")
    radius = _norm({n: after[n] - w for n, w in before.items()})
    generator = torch.Generator().manual_seed(seed)
    noise = {n: torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w) for n, w in before.items()}
    length = radius / _norm(noise)
    return {n: w.detach() + length.to(w) * noise[n] for n, w in before.items()}


@checked
def reinitialize(after: Mapping[str, Tensor], seed: int = 0) -> Weights:
    """Weights of the same distribution: every tensor's teleported values, in a random order.

    A new initialisation that has the teleported network's sizes of weights, but not its function.
    """
    require_weights(after)
    generator = torch.Generator().manual_seed(seed)
    order = {n: torch.randperm(w.numel(), generator=generator).to(w.device) for n, w in after.items()}
    return {n: w.detach().reshape(-1)[order[n]].reshape(w.shape) for n, w in after.items()}


def _norm(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([t.detach().square().sum(dtype=torch.float64).cpu() for t in tensors.values()]).sum().sqrt()
