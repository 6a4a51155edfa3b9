"""Frozen: modules that a model's own `train()` leaves in another mode than it is told.

A backbone whose `train` is overridden keeps its batch norms in eval mode, say. In an emitted network, whose modules
are plain holders of parameters, those take their place that do the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from fxteleport.passes.modes import has_own_train, own_train


@dataclass(frozen=True)
class Excepted:
    """What a module's own `train(mode)` does beside setting all modes: of modules and of parameters, by path."""

    modes: dict[str, bool]
    gradients: dict[str, bool]

    def impose(self, module: nn.Module) -> None:
        parts, parameters = dict(module.named_modules(remove_duplicate=False)), dict(module.named_parameters())
        for path, mode in self.modes.items():
            if path in parts:
                parts[path].training = mode
        for name, recorded in self.gradients.items():
            if name in parameters:
                parameters[name].requires_grad = recorded


class Holder(nn.Module):
    """Holds what a module held whose `train` is its own."""

    excepted: dict[bool, Excepted]

    def train(self, mode: bool = True) -> Holder:
        super().train(mode)
        self.excepted[mode].impose(self)
        return self


def excepted(module: nn.Module, below: bool = False) -> dict[bool, Excepted] | None:
    """What a module's own `train` does in each mode, or (`below`) that of any in it; None where all are torch's."""
    if not any(map(has_own_train, module.modules() if below else (module,))):
        return None
    own = {mode: own_train(module, mode) for mode in (False, True)}
    return {mode: Excepted(found.modes, found.gradients) for mode, found in own.items()}


def holder_of(module: nn.Module) -> nn.Module:
    """An empty module for the parameters and the parts of one."""
    exceptions = excepted(module)
    if exceptions is None:
        return nn.Module()
    made = Holder()
    made.excepted = exceptions
    return made


def take_modes(network: nn.Module, source: Any) -> None:
    """Put the modules of a network in the modes of a model's; those that it has not, in those of what they are in."""
    modes = {path: module.training for path, module in source.named_modules(remove_duplicate=False)}
    for path, module in network.named_modules():
        while path not in modes:
            path = path.rpartition(".")[0]
        module.training = modes[path]
