"""Leaves that are not modules of the model: a method of a module, a custom autograd function, a gradient hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.capture.attribute_journal import same, same_settings
from fxteleport.passes.graph.module_clone import is_clone, path_of


class Applied(nn.Module):
    """A custom autograd function as a leaf."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function.apply(*args)


class GradientHook(nn.Module):
    """A hook on the gradient of a tensor; each run registers it."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        super().__init__()
        self._hook = hook

    def __deepcopy__(self, memo: dict[int, Any]) -> GradientHook:
        return GradientHook(self._hook)

    def is_like(self, other: GradientHook) -> bool:
        """True for the same hook."""
        return self._hook is other._hook

    def forward(self, x: Tensor) -> None:
        x.register_hook(self._hook)


class Registered:
    """Stands in for the handle that registering such a hook returns, during a trace."""

    def __init__(self, node: fx.Node) -> None:
        self._node = node

    def remove(self) -> None:
        """Remove the node: a hook that is removed in the same run sees no gradient."""
        self._node.graph.erase_node(self._node)


class Helper(nn.Module):
    """A method of a module as a leaf; the module is no submodule of it, and its tensors are withheld."""

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
        return fn is method and path_of(owner) == path_of(owners)


class Given(nn.Module):
    """A torch layer that takes its tensors as keyword arguments; it has settings and a mode of its own."""

    def __init__(self, layer: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.layer, self._names = layer, names

    def is_like(self, other: Given) -> bool:
        """True for the same layer with the same settings."""
        return self._names == other._names and is_like_layer(self.layer, other.layer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        tensors = {name: kwargs.pop(name) for name in self._names}
        return torch.func.functional_call(self.layer, tensors, args, kwargs)


def with_settings(real: nn.Module, now: dict[str, Any], cls: type[nn.Module], plain: Callable[[Any], Any]) -> nn.Module:
    """A module of class `cls` (or a base of `real`'s) with other attributes, without the tensors and parts of `real`.

    Args:
        now: its attributes.
        plain: converts an attribute that differs from `real`'s to a plain value.
    """
    held = vars(real)
    keys = frozenset(now) if cls is type(real) else frozenset(vars(cls(1)))
    own = {k: v for k, v in now.items() if k not in _TABLES and k in keys}
    state = {k: held[k] if k in held and same(v, held[k]) else plain(v) for k, v in own.items()}
    made = object.__new__(cls)
    made.__dict__.update(state, _modules={}, training=False)
    for table in ("_parameters", "_buffers"):
        made.__dict__[table] = dict.fromkeys(held[table])
    return made


def is_like_layer(layer: nn.Module, other: nn.Module) -> bool:
    """True for two results of `with_settings` for one layer with the same settings."""
    made = is_clone(layer) and is_clone(other)
    return made and path_of(layer) == path_of(other) and same_settings(layer, other)


_TABLES = frozenset({"_parameters", "_buffers", "_modules"})


class Withheld(Tensor):
    """A weight that is withheld from an opaque method: its size and type may be read, and nothing else."""

    _FACTS = frozenset({Tensor.shape.__get__, Tensor.dtype.__get__, Tensor.ndim.__get__, Tensor.size, Tensor.dim})  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> Withheld:
        return self

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__reduce_ex__:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        if func in cls._FACTS:
            return super().__torch_function__(func, types, args, kwargs)
        raise RuntimeError(
            "a method that depends on the data reads weights, which it did not on the inputs that the network was"
            " captured on: capture it on these"
        )
