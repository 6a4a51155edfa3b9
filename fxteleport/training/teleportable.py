"""A network that teleports while it trains: its parameters stay the same objects, so an optimiser keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fxteleport.arguments import require_module
from fxteleport.checked import checked
from fxteleport.passes.errors import CobError, InputError, ModelError
from fxteleport.passes.rewrite.network_wraps import take_names_
from fxteleport.passes.rewrite.teleported_network import TeleportedModule
from fxteleport.plan.cob import ChangeOfBasis, require_cob
from fxteleport.plan.emission import live, move_
from fxteleport.plan.number_formats import require_range
from fxteleport.plan.plan import plan
from fxteleport.plan.teleported_point import Point
from fxteleport.plan.unguarded import admit
from fxteleport.plan.weights import require_weights
from fxteleport.training.optimizer_state import STATES, transport


class Teleportable(nn.Module):
    """A model that can be teleported in place, at any time.

    Calls go to `network`: the model itself until it is teleported, then (in mode "full") a network that the plan
    emits, with teleported activations, on the model's own parameters and buffers, which are scaled in place.

    A state dict restores the function. In mode "weights" its keys are those of `network`, which are the model's. In
    mode "full" it also has `cob` (float64 [num_free]) and the CoB of each wrapped operation: it loads into a
    `Teleportable` of the same model, whatever its current CoB, and not into the model.
    A copy (`deepcopy`, `torch.optim.swa_utils.AveragedModel`) is not teleported with it: teleport it as well.

    Args:
        model: as of `fxteleport.plan`, and so are the others.
        *example_inputs: what its forward takes.
        mode: "full" or "weights".
        norm_stats: "fixed", "rescaled" or "wrapped".
        data_guards: as of `plan`.
        norms: as of `plan`: with "scaled" (mode "weights") a residual stream before norms has a scale, and each
            teleportation keeps the function up to the norms' epsilons.
        **keyword_inputs: what its forward takes by name.

    Raises:
        InputError, ModelError, CaptureError: as of `plan`.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        *example_inputs: Any,
        mode: str = "full",
        norm_stats: str = "fixed",
        data_guards: bool = True,
        norms: str = "exact",
        **keyword_inputs: Any,
    ) -> None:
        super().__init__()
        require_module(model)
        require_weights(model)
        self.plan = plan(
            model,
            *example_inputs,
            mode=mode,
            norm_stats=norm_stats,
            data_guards=data_guards,
            norms=norms,
            **keyword_inputs,
        )
        shared = next((n for n in sorted(self.plan.planned.overlapping) if n in self.plan.planned.moving), None)
        if shared is not None:
            raise ModelError(
                f"'{shared}' shares memory with another tensor, and would be scaled twice in place: teleport copies"
                " (plan.rewrite), or use mode='weights', which leaves it"
            )
        self.network = model
        self.cob = self.plan.identity()

    def forward(self, *inputs: Any, **keyword_inputs: Any) -> Any:
        """Arguments and results as of the model."""
        return self.network(*inputs, **keyword_inputs)

    @checked
    def at(self, cob: ChangeOfBasis) -> Point:
        """The point to which `teleport_(cob)` would take the network, without teleporting it."""
        return Point(self.network, self.plan.scales(cob))

    @checked
    @torch.no_grad()
    def teleport_(
        self, cob: ChangeOfBasis, optimizer: Optimizer | None = None, state: str = "transport"
    ) -> Teleportable:
        """Scale the parameters in place by a change of basis, after earlier ones; the function is the same.

        Args:
            cob: of `self.plan`.
            optimizer: its state is moved too (see `optimizer_state.transport`).
            state: "transport", "reset" or "keep" the optimiser's state.

        Raises:
            CobError: the CoB is not valid for this plan, or would push weights out of their number format.
            ModelError: the model has changed since it was planned; nothing was changed.
            InputError: an unknown `state`, an optimiser of another network, or state of it that cannot be transported;
                nothing was changed then.
        """
        require_cob(cob)
        if state not in STATES:
            raise InputError(f"unknown state '{state}': choose one of {', '.join(STATES)}")
        self.plan.planned.require(self.plan.captured.model)
        if self.plan.mode == "weights":
            admit(self.plan, strict=False)
        total = cob @ self.cob
        scales = self.plan.scales(cob)
        held = dict(self.network.named_parameters()) | dict(self.network.named_buffers())
        require_range(self.plan, cob, held)
        require_range(self.plan, total, {}, operations=self.plan.mode == "full")
        if optimizer is not None:
            transport(optimizer, self.network, scales, state)
        for name, scale in scales.items():
            if name in held:
                held[name].data.mul_(scale.to(held[name]))
        if self.plan.mode == "full":
            move_(self.plan, self._emitted(), cob)
        self.cob = total
        return self

    def _emitted(self) -> TeleportedModule:
        """The network with wraps, on the model's own tensors; emitted at its first use."""
        if not isinstance(self.network, TeleportedModule):
            self.network = live(self.plan, self.network)
        return self.network

    # -- state dicts -----------------------------------------------------------------------------------

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.plan.mode == "full":
            destination[prefix + "cob"] = self.cob.values.detach().clone()

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, metadata: Any, strict: bool, missing: list[str],
        unexpected: list[str], errors: list[str],
    ) -> None:  # fmt: skip
        """Take over the CoB of a state dict, and the wraps that it names."""
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        key = prefix + "cob"
        if self.plan.mode != "full":
            return
        if key not in state_dict:
            if strict:
                missing.append(key)
            return
        if key in unexpected:
            unexpected.remove(key)
        try:
            self.cob = self.plan.cob(state_dict[key].detach().to("cpu", torch.float64))
        except CobError as error:
            errors.append(f"{key!r} is of another plan: {error}")
            return
        if isinstance(self.network, TeleportedModule) or bool((self.cob.values != 1).any()):
            take_names_(self._emitted(), state_dict, prefix + "network.")
