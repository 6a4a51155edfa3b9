"""Leaves that are no modules of the model's: a method of a module, a custom autograd function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxteleport.passes import evaluate
from fxteleport.passes.lowering import named_tensors
from fxteleport.passes.writes import same


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
        out = fn(owner, *args, **kwargs)
        if _on_meta(out) and not _on_meta((args, kwargs)):
            raise RuntimeError(
                f"'{fn.__qualname__}' depends on the data, and on these inputs it reads weights that it did not read on"
                " those that the network was captured on: capture it on these"
            )
        return out


def _on_meta(x: Any) -> bool:
    return any(isinstance(t, Tensor) and t.is_meta for t in evaluate.leaves_of(x))


class Given(nn.Module):
    """A torch layer that is given its tensors by keyword; its settings and its mode are its own."""

    def __init__(self, layer: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.layer, self._names = layer, names

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        tensors = {name: kwargs.pop(name) for name in self._names}
        return torch.func.functional_call(self.layer, tensors, args, kwargs)


def with_settings(real: nn.Module, now: dict[str, Any], cls: type[nn.Module], plain: Callable[[Any], Any]) -> nn.Module:
    """A module like `real`, without its tensors and its parts, of one of its classes.

    Args:
        now: the attributes that it is to have.
        plain: makes one of an attribute of `now` that is not `real`'s.
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


_TABLES = frozenset({"_parameters", "_buffers", "_modules"})


class Unread(TorchFunctionMode):
    """Raises CannotRun where a module's own tensors, or others of the model's, take part.

    Their sizes and types may be asked for.
    """

    _FACTS = frozenset({Tensor.shape.__get__, Tensor.dtype.__get__, Tensor.ndim.__get__, Tensor.size, Tensor.dim})  # type: ignore[attr-defined]

    def __init__(self, module: nn.Module, others: Iterable[Tensor]) -> None:
        super().__init__()
        self._tensors = {id(t) for _, t in named_tensors(dict(module.named_modules()))} | {id(t) for t in others}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self._FACTS and any(id(x) in self._tensors for x in evaluate.leaves_of((args, kwargs))):
            raise evaluate.CannotRun("it reads the weights of its module")
        return func(*args, **kwargs)
