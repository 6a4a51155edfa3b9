"""What nodes call: the callable behind a target, its name; the leaves of a value; statements as functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxteleport.passes.graph.node_info import info

_LEAVES = frozenset({Tensor, nn.Parameter, bool, int, float, str, type(None), torch.dtype, torch.device})
_SEQUENCES = frozenset({tuple, list, torch.Size})
_FORM_OF_FIRST = frozenset("zeros_like ones_like empty_like full_like new_zeros new_ones new_empty new_full".split())
_MAY_BE_IDLE = frozenset(
    "to type type_as float double half bfloat16 cpu cuda contiguous clone detach view reshape expand".split()
)
_SIZE_OF_SECOND = frozenset("expand_as view_as reshape_as".split())
_FORM_OF_SECOND = _SIZE_OF_SECOND | {"to", "type_as"}
_SIZES = frozenset("shape size numel".split())
_FORMS = _SIZES | {"ndim", "dim", "dtype", "device"}


def call_of(op: str, target: Any) -> Callable[..., Any]:
    """The Python callable behind a node's op and target."""
    if op == "call_method":
        return lambda self, *args, **kwargs: getattr(self, target)(*args, **kwargs)
    return target  # type: ignore[no-any-return]


def name_of(target: Any) -> str:
    """The name that all spellings of an operation share, in place or as a copy."""
    name: str = target if isinstance(target, str) else getattr(target, "__name__", "")
    return name.removesuffix("_").removesuffix("_copy")


def inputs_read(node: fx.Node) -> list[fx.Node]:
    """The input nodes whose values an operation reads. Of the others it reads the shape, dtype and device only."""
    inputs = node.all_input_nodes
    name = name_of(node.target) if node.op in ("call_function", "call_method") else ""
    if name in _FORM_OF_FIRST:
        return inputs[1:]
    return inputs[:1] if name in _FORM_OF_SECOND else inputs


def asks_for_form(node: fx.Node) -> bool:
    """True for a node that asks for the size, type or device of a tensor, and reads nothing that is in it."""
    return _asked(node) in _FORMS


def reads_size(node: fx.Node) -> bool:
    """True for a node that reads the size of a tensor, and not what is in it."""
    name = name_of(node.target) if node.op in ("call_function", "call_method") else ""
    return _asked(node) in _SIZES or name in _FORM_OF_FIRST or name in _SIZE_OF_SECOND


def _asked(node: fx.Node) -> Any:
    return node.args[1] if node.target is getattr else node.target if node.op == "call_method" else None


def is_idle(node: fx.Node) -> bool:
    """True for a cast, a copy or a view that gives the values, the shape and the type which it is given."""
    name = name_of(node.target) if node.op in ("call_function", "call_method") else ""
    if name not in _MAY_BE_IDLE:
        return False
    given, value = info(node.all_input_nodes[0]).value, info(node).value
    both = isinstance(given, Tensor) and isinstance(value, Tensor)
    return both and given.shape == value.shape and given.dtype == value.dtype


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
