"""The plan and the change of basis of an emitted network, which the network keeps.

`verify` uses them to compare node by node, and `save` stores them. The plan refers to the original model, which stays
in memory as long as the network does, or until `network.release()`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from fxteleport.passes.rewrite.teleported_network import TELEPORTATION, TeleportedModule
from fxteleport.plan.analysis import Analysis
from fxteleport.plan.cob import ChangeOfBasis


@dataclass(frozen=True, eq=False)
class Teleportation:
    """The plan and the change of basis that a network was emitted with."""

    plan: Analysis
    cob: ChangeOfBasis

    def __deepcopy__(self, memo: dict[int, Any]) -> Teleportation:
        return self  # a plan never changes, and it refers to the original model

    def __reduce__(self) -> tuple[Any, ...]:
        return _forgotten, ()  # a network is pickled without its plan


def _forgotten() -> None:
    """The teleportation of an unpickled network."""


def remember(network: TeleportedModule, plan: Analysis, cob: ChangeOfBasis) -> None:
    """Store the plan and the change of basis in a network."""
    network.meta[TELEPORTATION] = Teleportation(plan, cob)


def teleportation_of(network: nn.Module) -> Teleportation | None:
    """The plan and the change of basis of a network; None where it has none (any more)."""
    teleportation: Teleportation | None = getattr(network, "meta", {}).get(TELEPORTATION)
    return teleportation
