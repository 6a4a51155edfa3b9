"""Leaves that are no modules of the model's: a method of a module, a custom autograd function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxteleport.passes import evaluate
from fxteleport.passes.lowering import named_tensors


class Applied(nn.Module):
    """A custom autograd function as a leaf."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function.apply(*args)


class Helper(nn.Module):
    """A method of a module as a leaf; the module itself is held out of sight: its tensors are meta stand-ins."""

    def __init__(self, owner: nn.Module, fn: Callable[..., Any]) -> None:
        super().__init__()
        self._held = (owner, fn)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        owner, fn = self._held
        for module in owner.modules():
            module.training = self.training
        return fn(owner, *args, **kwargs)

    def is_like(self, other: Helper) -> bool:
        """True for the same method of the same module."""
        (owner, fn), (owners, method) = self._held, other._held
        return fn is method and vars(owner)["_path"] == vars(owners)["_path"]


class Unread(TorchFunctionMode):
    """Raises CannotRun where a module's own tensors take part; their sizes and types may be asked for."""

    _FACTS = frozenset({Tensor.shape.__get__, Tensor.dtype.__get__, Tensor.ndim.__get__, Tensor.size, Tensor.dim})  # type: ignore[attr-defined]

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._tensors = {id(t) for _, t in named_tensors(dict(module.named_modules()))}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self._FACTS and any(id(x) in self._tensors for x in evaluate.leaves_of((args, kwargs))):
            raise evaluate.CannotRun("it reads the weights of its module")
        return func(*args, **kwargs)
