"""What nodes call: the callable behind a target, its name; the leaves of a value; statements as functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

_LEAVES = frozenset({Tensor, nn.Parameter, bool, int, float, str, type(None), torch.dtype, torch.device})
_SEQUENCES = frozenset({tuple, list, torch.Size})


def call_of(op: str, target: Any) -> Callable[..., Any]:
    """The Python callable behind a node's op and target."""
    if op == "call_method":
        return lambda self, *args, **kwargs: getattr(self, target)(*args, **kwargs)
    return target  # type: ignore[no-any-return]


def name_of(target: Any) -> str:
    """The name that all spellings of an operation share, in place or as a copy."""
    name: str = target if isinstance(target, str) else getattr(target, "__name__", "")
    return name.removesuffix("_").removesuffix("_copy")


def leaves_of(x: Any) -> list[Any]:
    """`pytree.tree_leaves`, at a fifth of the time for what calls mostly hold."""
    kind = type(x)
    if kind in _LEAVES:
        return [x]
    if kind is dict or (issubclass(kind, dict) and kind not in pytree.SUPPORTED_NODES):
        x = x.values()
    elif kind not in _SEQUENCES:
        return pytree.tree_leaves(x)
    if _LEAVES.issuperset(map(type, x)):
        return list(x)
    return [leaf for item in x for leaf in leaves_of(item)]


def holds_tensor(x: Any) -> bool:
    """True for a tensor, and for a structure with one in it."""
    return type(x) is Tensor or any(isinstance(leaf, Tensor) for leaf in leaves_of(x))


def setitem(x: Any, index: Any, value: Any) -> Any:
    """`x[index] = value` as an expression: the map follows the value, not the name."""
    x[index] = value
    return x


def same_items(a: Any, b: Any) -> bool:
    """True if two lists, tuples or shapes hold the same."""
    return tuple(a) == tuple(b)
