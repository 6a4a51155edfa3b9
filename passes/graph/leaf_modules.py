"""Leaf modules: which modules are called by one node. torch's own layers are, and modules that read `self.training`."""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fxteleport.passes.graph.class_cache import once_per_class


def is_leaf(module: nn.Module) -> bool:
    """True for torch's own layers (not its containers).

    A layer with hooks or parts is traced into instead, unless it is intricate (`is_intricate`). A subclass of an
    intricate layer is a leaf, too, if it adds no code that forward may run.
    """
    cls: Any = type(module)
    own = _methods_of_layer(cls)
    if own is None or not own.isdisjoint(module.__dict__):  # with another `forward`, say, it is one no longer
        return False
    return not (module._modules or hooked(module)) or is_intricate(module)


@once_per_class
def _methods_of_layer(cls: Any) -> frozenset[str] | None:
    """The names of the methods that the forward of a class of torch's layers may run; None for any other class."""
    while issubclass(cls, _INTRICATE) and not _has_code(cls):
        cls = cls.__base__
    is_layer = cls.__module__.startswith("torch.nn.modules.") and cls.__module__ != "torch.nn.modules.container"
    return methods(cls) if is_layer else None


@once_per_class
def _has_code(cls: type) -> bool:
    """True for torch's own classes, for those with several bases, and for those with methods beyond construction."""
    members = [member for name, member in vars(cls).items() if name not in _MAKING and not isinstance(member, type)]
    added = any(inspect.isroutine(member) or inspect.isdatadescriptor(member) for member in members)
    return cls.__module__.startswith("torch.") or len(cls.__bases__) > 1 or added


_MAKING = frozenset({"__init__", "__setstate__", "extra_repr", "reset_parameters", "__dict__", "__weakref__"})


def _functions(cls: type) -> dict[str, Any]:
    """The methods that a class adds to `nn.Module`, and its own `forward`."""
    own = [vars(c) for c in cls.__mro__ if issubclass(c, nn.Module) and c is not nn.Module]
    return {name: member for members in own for name, member in members.items() if inspect.isfunction(member)}


@functools.cache
def methods(cls: type) -> frozenset[str]:
    """The names of the methods that a class's `forward` may run."""
    return frozenset(_functions(cls)) - _MAKING


def as_its_class(module: nn.Module) -> nn.Module:
    """Remove the hooks of a module, and methods that were replaced on the instance: the caller runs those."""
    cls: type = type(module)
    for name in methods(cls) & vars(module).keys():
        del vars(module)[name]
    return without_hooks(module)


def is_nested_encoder(module: nn.Module) -> bool:
    """True for torch's Transformer encoder where it makes nested tensors of a padded batch, by kernels of its own."""
    parts = list(module.modules()) if type(module) is nn.TransformerEncoder else []
    if not parts or not module.use_nested_tensor or any(map(hooked, parts)) or any("forward" in vars(m) for m in parts):
        return False
    kinds = {type(layer) for layer in module.layers}  # type: ignore[union-attr]
    return kinds == {nn.TransformerEncoderLayer} and not any(m.norm_first for m in module.layers)  # type: ignore[union-attr]


_INTRICATE = (nn.MultiheadAttention, nn.RNNBase)


def hooked(module: nn.Module) -> bool:
    """True where a forward hook may change what the module takes or gives."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def changes_gradients(module: nn.Module) -> bool:
    """True where a backward hook may change the gradients that pass through the module."""
    return bool(module._backward_hooks or module._backward_pre_hooks)


def gradient_hooks(tensor: Tensor) -> tuple[list[Any], list[Any]]:
    """The hooks that see a tensor's gradient: before it is added to `grad`, and after."""
    after = getattr(tensor, "_post_accumulate_grad_hooks", None) or {}
    return list((tensor._backward_hooks or {}).values()), list(after.values())


def watched(module: nn.Module) -> bool:
    """True where a forward hook is not torch's own, and so may store what it sees anywhere."""
    if not hooked(module):
        return False
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(not (getattr(hook, "__module__", None) or "").startswith("torch.") for hook in hooks)


def without_hooks(module: nn.Module) -> nn.Module:
    """Remove the forward hooks of a module: the caller runs them."""
    vars(module).update(_forward_hooks=OrderedDict(), _forward_pre_hooks=OrderedDict())
    return module


def is_compiled(module: nn.Module) -> bool:
    """A module that `torch.compile` wrapped; what it computes is its `_orig_mod`."""
    return type(module).__module__ == "torch._dynamo.eval_frame" and "_orig_mod" in module._modules


def is_mode_dependent(module: nn.Module) -> bool:
    """A module without tensors or parts whose forward itself reads `self.training` (drop path and its like)."""
    code = getattr(type(module).forward, "__code__", None)
    return not is_stateful(module) and code is not None and "training" in code.co_names and not hooked(module)


def is_stateful(module: nn.Module) -> bool:
    """A module with tensors or parts of its own."""
    return bool(module._modules or module._parameters or module._buffers)


def has_parameters(module: nn.Module) -> bool:
    """True for a module with parameters, its own or in its parts."""
    own = any(p is not None for p in module._parameters.values()) if module._parameters else False
    return own or bool(module._modules and next(module.parameters(), None) is not None)


def is_intricate(module: nn.Module) -> bool:
    """True for a torch layer that cannot be called as a function of its tensors: recurrent layers and attention."""
    return isinstance(module, _INTRICATE)


@functools.cache
def reads_training(cls: Any) -> bool:
    """True where the class's forward, or another method that it adds, mentions `self.training`."""
    own = [c for c in cls.__mro__ if c is not nn.Module and issubclass(c, nn.Module)]
    members = [cls.forward, *(x for c in own for x in vars(c).values())]
    return any("training" in code.co_names for x in members if (code := getattr(x, "__code__", None)) is not None)


DROPOUT: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}
DRAWING = (nn.modules.dropout._DropoutNd, nn.RReLU)  # layers that draw random numbers in train mode
