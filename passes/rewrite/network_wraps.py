"""The wraps of an emitted network, over all its graphs: where they may be, and setting their CoBs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.rewrite import wraps


class Network(Protocol):
    """An emitted network, with the networks of its other graphs, which share its modules."""

    @property
    def graphs(self) -> list[fx.Graph]:
        """All graphs."""

    @property
    def networks(self) -> Sequence[fx.GraphModule]:
        """This network, and those of its other graphs."""


def places(network: Network) -> list[wraps.Place]:
    """The places of CoBs, whether or not there is a wrap."""
    return [place for _, slot in wraps.slots_of(*network.graphs) for place in slot.places]


def put_(network: Any, cobs: Mapping[str, Tensor | None]) -> None:
    """Set the CoB at every place that is named (see `wraps.fill`)."""
    changed = [wraps.fill(network, graph, cobs) for graph in network.graphs]
    if any(changed):
        for one in network.networks:
            one.recompile()


def move_(network: Any, cobs: Mapping[str, Tensor]) -> None:
    """Multiply the CoB at each place by another one."""
    moved: dict[str, Tensor | None] = {}
    for place in places(network):
        before = None if (module := wraps.held(network, place)) is None else module.cob
        if place.name in cobs:
            more = cobs[place.name]
            moved[place.name] = more if before is None else before.mul_(more.to(before))
    put_(network, moved)


def take_names_(network: Any, state: Mapping[str, Any], prefix: str = "") -> None:
    """Add wraps where a state dict has CoBs, and disable all others; the values are not loaded yet."""
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    named: dict[str, Tensor | None] = {}
    for place in places(network):
        module = wraps.held(network, place)
        if prefix + place.key not in state:
            named[place.name] = None
        elif module is None or module.cob is None:
            named[place.name] = torch.full(place.shape, 2.0, dtype=like.dtype, device=like.device)
    put_(network, named)


def is_at(network: nn.Module, place: wraps.Place, cob: Tensor | None) -> bool:
    """True if the CoB at a place is this one."""
    module = wraps.held(network, place)
    own = None if module is None else module.cob
    if own is None or cob is None:
        return own is cob
    return own.shape == cob.shape and torch.equal(own, cob.to(own))
