"""A network that teleports while it trains: the parameters stay the same objects, so its optimiser keeps them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fxteleport.cob import ChangeOfBasis
from fxteleport.errors import InputError, ModelError
from fxteleport.plan import plan, require_weights
from fxteleport.point import Point
from fxteleport.transport import STATES, transport


class Teleportable(nn.Module):
    """A model with the freedom to teleport in place, at any time.

    Calls go to `network`: the model itself until it is teleported, then (in mode "full") a network that the plan
    emits, with teleported activations but the model's own parameters and buffers, scaled in place.
    `network.state_dict()` has the model's keys at any time; in mode "full" its values mean what they do with `cob`.

    Args:
        model, example_inputs, mode, norm_stats, keyword_inputs: as of `fxteleport.plan`.

    Raises:
        InputError, ModelError, CaptureError: as of `plan`.
    """

    def __init__(
        self,
        model: nn.Module,
        *example_inputs: Any,
        mode: str = "full",
        norm_stats: str = "fixed",
        **keyword_inputs: Any,
    ) -> None:
        super().__init__()
        require_weights(model)
        self.plan = plan(model, *example_inputs, mode=mode, norm_stats=norm_stats, **keyword_inputs)
        shared = next((n for n in sorted(self.plan.planned.overlapping) if n in self.plan.planned.moving), None)
        if shared is not None:
            raise ModelError(
                f"'{shared}' shares memory with another tensor, and would be scaled twice in place: teleport copies"
                " (plan.rewrite), or use mode='weights', which leaves it"
            )
        self.network = model
        self.cob = self.plan.identity()

    def forward(self, *inputs: Any, **keyword_inputs: Any) -> Any:
        """What the model takes and returns."""
        return self.network(*inputs, **keyword_inputs)

    def at(self, cob: ChangeOfBasis) -> Point:
        """The network seen from where `teleport_(cob)` would take it, without going there."""
        return Point(self.network, self.plan.scales(cob))

    @torch.no_grad()
    def teleport_(
        self, cob: ChangeOfBasis, optimizer: Optimizer | None = None, state: str = "transport"
    ) -> Teleportable:
        """Scale the live parameters by a change of basis, after those before it; the function stays.

        Args:
            cob: of `self.plan`.
            optimizer: its state is moved too (see `fxteleport.transport`).
            state: "transport", "reset" or "keep" the optimiser's state.

        Raises:
            CobError: the CoB is not valid for this plan.
            ModelError: the model is not what was planned any more; nothing was changed.
            InputError: an unknown `state`, or optimiser state that cannot be transported; nothing was changed then.
        """
        if state not in STATES:
            raise InputError(f"unknown state '{state}': choose one of {', '.join(STATES)}")
        self.plan.planned.require(self.plan.captured.model)
        if self.plan.mode == "weights":
            self.plan.admit(strict=False)
        total = cob @ self.cob
        scales = self.plan.scales(cob)
        if optimizer is not None:
            transport(optimizer, self.network, scales, state)
        held = dict(self.network.named_parameters()) | dict(self.network.named_buffers())
        for name, scale in scales.items():
            if name in held:
                held[name].data.mul_(scale.to(held[name]))
        if self.plan.mode == "full":
            self._emit(total)
        self.cob = total
        return self

    def _emit(self, total: ChangeOfBasis) -> None:
        """A network of the operations that the total CoB needs, on the tensors of the one before."""
        emitted = self.plan.rewrite(total)
        emitted.meta.pop("teleportation")  # its parameters are not those that the plan would expect
        state = self.network.state_dict(keep_vars=True)
        for path, module in emitted.named_modules():
            prefix = f"{path}." if path else ""
            for table in (module._parameters, module._buffers):
                for name in table:
                    if prefix + name in state:
                        table[name] = state[prefix + name]
        self.network = emitted.train(self.network.training)
