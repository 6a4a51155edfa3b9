"""Build a network without its random initialisation, if its parameters are drawn again anyway."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.bernoulli_, Tensor.random_})


class Unfilled(TorchFunctionMode):
    """While active, in-place random draws leave parameters uninitialised; buffers are drawn as usual.

    Initialisation is most of the time that building a large network takes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", "") == "torch.nn.init":
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)
