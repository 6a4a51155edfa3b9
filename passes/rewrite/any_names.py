"""Networks whose parts may have any name, also one that `GraphModule` uses itself (`graph`, `code`, `meta`).

Python finds attributes of a class before the entries of a module's tables. So the code of a network with such a part
runs on a plain `nn.Module` with the same tables.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from fxteleport.passes.capture.leaf_table import WHOLE

TABLES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def plain(module: nn.Module) -> nn.Module:
    """A plain module that shares the tables of another one (and its opaque model, if it is kept whole)."""
    twin = nn.Module()
    for key in (*TABLES, "training", WHOLE):
        if key in module.__dict__:
            twin.__dict__[key] = module.__dict__[key]
    return twin


def parts(module: nn.Module) -> set[str]:
    """The names of a module's parameters, buffers and submodules."""
    return {name for table in ("_parameters", "_buffers", "_modules") for name in module.__dict__[table]}


def on_plain(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that runs on the plain module."""

    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(plain(self), *args, **kwargs)

    return wrapper
