"""Frozen modules: those that a model's own `train(mode)` leaves in another mode.

A backbone may override `train` to keep its batch norms in eval mode, say. In an emitted network, whose modules are
plain holders of parameters, a `Holder` does the same in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from fxteleport.passes.capture.own_train import has_own_train, own_train


@dataclass(frozen=True)
class Excepted:
    """What a module's own `train(mode)` does beside setting all modes: modes by path, `requires_grad` by name.

    `followed` maps each module that capture has added to the one whose mode it follows.
    """

    modes: dict[str, bool]
    gradients: dict[str, bool]
    followed: Mapping[str, str]

    def impose(self, module: nn.Module) -> None:
        parts, parameters = dict(module.named_modules(remove_duplicate=False)), dict(module.named_parameters())
        for path, mode in self.modes.items():
            if path in parts:
                parts[path].training = mode
        for path, owner in self.followed.items():
            if owner in self.modes and path in parts:
                for part in parts[path].modules():
                    part.training = self.modes[owner]
        for name, recorded in self.gradients.items():
            if name in parameters:
                parameters[name].requires_grad = recorded


class Holder(nn.Module):
    """The holder for a module with a `train` of its own."""

    excepted: dict[bool, Excepted]

    def train(self, mode: bool = True) -> Holder:
        super().train(mode)
        self.excepted[mode].impose(self)
        return self


def excepted(module: nn.Module, followed: Mapping[str, str], below: bool = False) -> dict[bool, Excepted] | None:
    """What a module's own `train` does in each mode, or (`below`) that of any in it; None where all are torch's."""
    if not any(map(has_own_train, module.modules() if below else (module,))):
        return None
    own = {mode: own_train(module, mode) for mode in (False, True)}
    return {mode: Excepted(done.modes, done.gradients, followed) for mode, done in own.items()}


def holder_of(module: nn.Module, path: str, followed: Mapping[str, str]) -> nn.Module:
    """An empty module, which will hold the parameters and submodules of the one at a path."""
    prefix = f"{path}." if path else ""
    inside = {
        leaf.removeprefix(prefix): owner.removeprefix(prefix) if owner != path else ""
        for leaf, owner in followed.items()
        if leaf.startswith(prefix)
    }
    exceptions = excepted(module, inside, below=bool(inside))
    if exceptions is None:
        return nn.Module()
    holder = Holder()
    holder.excepted = exceptions
    return holder


def take_modes(network: nn.Module, source: Any, followed: Mapping[str, str]) -> None:
    """Put a network's modules into the modes of the model's; added modules into the modes of those they follow."""
    modes = {path: module.training for path, module in source.named_modules(remove_duplicate=False)}
    for path, module in network.named_modules():
        while path not in modes:
            path = followed[path] if path in followed else path.rpartition(".")[0]
        module.training = modes[path]
