"""Restored: a network in which norms stay as they are, though their inputs have a factor, made exact again.

It is what `verify` holds against the original: with each epsilon times its power of the factor, the function is kept
to the last bit under powers of two, so whatever else differs is a fault. What the epsilons do is measured apart.
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
    """A copy whose norms have epsilons of their own; None where one cannot have one (a layer that is called twice).

    Args:
        network: one that has no operations in another basis (`mode="weights"`).
        norms: those whose input may have a factor.
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
