"""A model's own `train(mode)`: what it does beside setting the mode of every module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fxteleport.passes.capture.attribute_journal import same
from fxteleport.passes.graph.exported import sets_modes
from fxteleport.passes.graph.module_clone import BOOKKEEPING, clone, modules_of


@dataclass(frozen=True)
class OwnTrain:
    """What a model's own `train(mode)` does beside setting the mode of every module.

    Attributes:
        modes: path -> mode, for the modules that it leaves in the other mode.
        gradients: name -> `requires_grad`, for the parameters for which it changes that.
        attributes: (module's path, attribute) -> the value that it sets; references to modules are to those of
            `seen_on`.
        seen_on: the clone on which it ran.
        computes: it computes with tensors, so it may change weights (it merges low-rank updates, say).
        owners: the paths of the modules whose class has a `train` of its own.
    """

    modes: dict[str, bool] = field(default_factory=dict)
    gradients: dict[str, bool] = field(default_factory=dict)
    attributes: dict[tuple[str, str], Any] = field(default_factory=dict)
    seen_on: nn.Module | None = None
    computes: bool = False
    owners: tuple[str, ...] = ()


def has_own_train(module: nn.Module) -> bool:
    """True for a module whose `train` is not torch's."""
    return type(module).train is not nn.Module.train or "train" in vars(module)


def own_train(module: nn.Module, training: bool) -> OwnTrain:
    """What `module.train(training)` does, by running it on a clone on the meta device."""
    owners = tuple(path for path, m in modules_of(module).items() if has_own_train(m))
    if not owners or not sets_modes(module):
        return OwnTrain()
    twin = clone(module, lambda _, t: _untouched(t))
    parts = dict(twin.named_modules())
    before = {path: dict(vars(part)) for path, part in parts.items()}
    trained = {name: p.requires_grad for name, p in twin.named_parameters()}
    with _Computing() as watch:
        try:
            twin.train(training)
        except Exception:  # an exported module takes no mode
            return OwnTrain()
    return OwnTrain(
        {path: m.training for path, m in twin.named_modules() if m.training is not training},
        {n: p.requires_grad for n, p in twin.named_parameters() if p.requires_grad is not trained[n]},
        {
            (path, name): value
            for path, part in parts.items()
            for name, value in vars(part).items()
            if name not in BOOKKEEPING and not same(value, before[path].get(name, twin))
        },
        twin,
        watch.seen,
        owners,
    )


class _Computing(TorchDispatchMode):
    """Notes whether anything is computed with tensors."""

    seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = self.seen or func is not torch.ops.aten.detach.default
        return func(*args, **(kwargs or {}))


def _untouched(tensor: torch.Tensor) -> torch.Tensor:
    """A stand-in for a parameter, on which `train()` may set `requires_grad`."""
    made = torch.empty_like(tensor, device="meta")
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
