"""What an emitted network remembers of its making: the plan and the change of basis.

`verify` compares node by node with it, and `save` writes it down. The plan holds the original model, which so lives as
long as the network does, or until `network.release()`.
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
        return self  # a plan never changes, and it holds the original model

    def __reduce__(self) -> tuple[Any, ...]:
        return _forgotten, ()  # a pickled network travels without its plan


def _forgotten() -> None:
    """The teleportation of an unpickled network."""


def remember(network: TeleportedModule, plan: Analysis, cob: ChangeOfBasis) -> None:
    """Note on a network how it was made."""
    network.meta[TELEPORTATION] = Teleportation(plan, cob)


def teleportation_of(network: nn.Module) -> Teleportation | None:
    """How a network was made; None where it does not remember, or was not emitted by a plan."""
    made: Teleportation | None = getattr(network, "meta", {}).get(TELEPORTATION)
    return made
