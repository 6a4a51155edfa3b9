"""Which graph of an emitted network runs, where train mode has another graph than eval mode.

The modes of the network's modules select it. The network refuses to run where they select neither (some modules are in
another mode than the rest, or train mode has no graph).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxteleport.passes.errors import InputError


@dataclass(frozen=True)
class Choice:
    """What decides which graph runs: the modes of modules by path (None: whether gradients are recorded).

    Attributes:
        evaluating, training: the modes in which the graphs were traced.
        refused: why train mode has no graph, or "".
    """

    evaluating: dict[str | None, bool]
    training: dict[str | None, bool]
    refused: str = ""

    def is_training(self, network: nn.Module) -> bool:
        """Whether a network's modes select the graph of train mode.

        Raises:
            InputError: they select neither graph.
        """
        now = {path: _mode(network, path) for path in self.evaluating}
        if now == self.evaluating:
            return False
        if now == self.training and not self.refused:
            return True
        where = next(path for path in now if now[path] is not self.evaluating[path])
        what = "gradients are recorded" if where is None else f"'{where or 'the network'}' is in train mode"
        why = self.refused or "other modules are not, and it was planned with all of them in the same mode"
        if where is not None and self.evaluating[where]:
            what = what.replace("train", "eval")
        raise InputError(
            f"what this network computes depends on its mode, and {what}, in which it was not captured: {why}."
            " Call eval() first (or, with gradients recorded, torch.no_grad()), or run the model itself, moved by"
            " plan.apply_ in mode='weights'"
        )


def _mode(network: nn.Module, path: str | None) -> bool:
    if path is None:
        return torch.is_grad_enabled()
    module = network
    for name in path.split(".") if path else ():
        child = module._modules.get(name)
        if child is None:
            break
        module = child
    return module.training


def choosing(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of an emitted network that chooses between two graphs (`TeleportedModule.choice`)."""

    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.choice.is_training(self):
            return self.in_training.forward(*args, **kwargs)
        return forward(self, *args, **kwargs)

    return wrapper
