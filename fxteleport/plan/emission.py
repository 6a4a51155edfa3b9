"""Emit networks: a teleported copy of a model, or a network on the model's own tensors, which `Teleportable` moves."""

from __future__ import annotations

import time

import torch
from torch import nn

from fxteleport.passes.check_graph import check_graph
from fxteleport.passes.rewrite import network_wraps
from fxteleport.passes.rewrite import rewrite as rewrite_pass
from fxteleport.passes.rewrite.teleported_network import TeleportedModule
from fxteleport.passes.rewrite.wraps import cobs, slots_of
from fxteleport.plan.analysis import Analysis
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.factors import tau
from fxteleport.plan.free_values import check
from fxteleport.plan.model_snapshot import ModelSnapshot
from fxteleport.plan.number_formats import require_range
from fxteleport.plan.teleportation import remember
from fxteleport.plan.weights import require_planned


def rewrite(plan: Analysis, cob: ChangeOfBasis) -> TeleportedModule:
    """The teleported network; the model is not touched.

    Its state dict has the original's keys, and one for the CoB of every wrapped operation.

    Raises:
        CobError: the CoB is not valid for this plan, or would push weights out of their number format.
        ModelError: the model is on the meta device, or has changed since it was planned.
        GraphError: the plan was made with `checks`, and the network violates the contract (`check_graph`).
    """
    check(plan, cob)
    require_planned(plan)
    require_range(plan, cob, ModelSnapshot(plan.captured.model).tensors, operations=True)
    symbols = tau(plan, cob).detach()
    start = time.perf_counter()
    numbers = plan.solution.numbers(cob.values.detach())
    network = rewrite_pass.rewrite(plan.captured, plan.sides, plan.recipe, numbers, symbols)
    plan.seconds["rewrite"] = time.perf_counter() - start
    if plan.checks:
        check_graph(plan.captured, "rewrite", network=network)
    network.meta["planned_values"] = plan.planned.values
    remember(network, plan, cob)
    return network


def live(plan: Analysis, model: nn.Module) -> TeleportedModule:
    """The planned model, or a copy of it, as a network on the same tensors, for `Teleportable`.

    Raises:
        ModelError: the model has changed since it was planned.
    """
    plan.planned.require(model, itself=model is plan.captured.model)
    network = rewrite_pass.live(plan.captured, model, plan.sides)
    network.meta["planned_values"] = plan.planned.values
    return network


def move_(plan: Analysis, network: TeleportedModule, cob: ChangeOfBasis) -> None:
    """Multiply the CoBs of the wraps of a network of this plan (not its parameters) by another CoB."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    slots = (slot for _, slot in slots_of(*network.graphs))
    network_wraps.move_(network, cobs(slots, plan.sides, tau(plan, cob).detach(), device))
