"""Networks whose parts may have any name, those too that a `GraphModule` has for itself (`graph`, `code`, `meta`).

Python finds what a class has before a part that a module has in its tables. So the code of a network with such a part
runs on a plain module of the same parts, which has no other names than every module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from fxteleport.passes.capture.leaf_table import WHOLE

TABLES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def plain(module: nn.Module) -> nn.Module:
    """A plain module that shares the tables of another one, and the model that this is if it is kept whole."""
    twin = nn.Module()
    for key in (*TABLES, "training", WHOLE):
        if key in module.__dict__:
            twin.__dict__[key] = module.__dict__[key]
    return twin


def parts(module: nn.Module) -> set[str]:
    """The names of what a module has in its tables."""
    return {name for table in ("_parameters", "_buffers", "_modules") for name in module.__dict__[table]}


def on_plain(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that sees the parts of its module alone."""

    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(plain(self), *args, **kwargs)

    return wrapper
