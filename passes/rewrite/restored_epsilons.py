"""Restored epsilons: an exact copy of a network whose norms have scaled inputs and unchanged epsilons.

`verify` compares this copy with the original: with each epsilon multiplied by its power of the factor, the function is
the same to the last bit under powers of two, so any difference is a fault. The effect of the epsilons themselves is
measured separately.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from fxteleport.passes.rewrite import wraps
from fxteleport.passes.rewrite.network_wraps import put_
from fxteleport.passes.rewrite.sides import Sides
from fxteleport.passes.rewrite.teleported_network import TeleportedModule


def with_epsilons(network: TeleportedModule, norms: Mapping[str, Sides], tau: Tensor) -> TeleportedModule | None:
    """A copy whose norms have scaled epsilons; None where a norm cannot have one (a layer that is called twice).

    Args:
        network: a network without wraps (`mode="weights"`).
        norms: the norms whose inputs may have a factor.
        tau: a number for every symbol.
    """
    twin = copy.deepcopy(network)
    wraps.mark(twin, twin.graphs, norms)
    device = next((p.device for p in twin.parameters()), torch.device("cpu"))
    values: dict[str, Tensor | None] = {}
    for _, slot in wraps.slots_of(*twin.graphs):
        before = norms[slot.captured].before
        if slot.epsilons is None or before is None:
            return None
        factor = before.precise(tau).reshape(-1)[0]
        if factor != 1:
            values |= {place.name: factor.to(device, before.dtype, copy=True) for _, place in slot.epsilons}
    put_(twin, values)
    return twin
