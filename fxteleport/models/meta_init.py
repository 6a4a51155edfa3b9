"""Models without weights: their parameters on the meta device, their buffers real.

A plan reads no weight, but it does read index buffers (relative positions); `torch.device("meta")` would lose those.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Models that are built inside have their parameters on the meta device: no memory and no initialisation.

    Tied parameters stay tied. Not for several threads at once.
    """
    register = nn.Module.register_parameter
    known = WeakIdKeyDictionary()

    def register_empty(self: nn.Module, name: str, param: Any) -> None:
        if type(param) is nn.Parameter and not param.is_meta:
            if param not in known:
                known[param] = nn.Parameter(param.detach().to("meta"), param.requires_grad)
            param = known[param]
        register(self, name, param)

    nn.Module.register_parameter = register_empty  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
