"""Extra state: what a module's state dict has beside tensors, for the holder that replaces the module in a network.

That is the version of its class, by which `load_state_dict` recognises older layouts, and `get_extra_state()`.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

CARRIED = ("_version", "_state_dict_hooks", "_load_state_dict_pre_hooks")  # attributes of the module that carries
_EXTRA = "_extra_state"


def carry(source: nn.Module, twin: nn.Module) -> None:
    """Have the module that replaces `source` in a network save the same version and extra state."""
    if source._version != twin._version:
        twin._version = source._version
    if type(source).get_extra_state is not nn.Module.get_extra_state and type(twin) is not type(source):
        extra = copy.deepcopy(source.get_extra_state())
        twin._register_state_dict_hook(functools.partial(_give, extra))
        twin._register_load_state_dict_pre_hook(functools.partial(_take, extra))


def _give(extra: Any, module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    state[prefix + _EXTRA] = copy.deepcopy(extra)


def _take(
    extra: Any, state: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing: list[str], _: Any,
    errors: list[str],
) -> None:  # fmt: skip
    """Remove the extra state from a state dict; it must be the one at capture, on which the graph may depend."""
    key = prefix + _EXTRA
    if key not in state:
        if strict:
            missing.append(key)
    elif not same(state.pop(key), extra):
        errors.append(
            f"{key!r} is not what this network was captured with, and its graph may rest on that:"
            " load it into the original model, and plan that again"
        )


def same(a: Any, b: Any) -> bool:
    """True for trees of equal tensors and values; values that cannot be compared count as different."""
    (leaves, structure), (others, other_structure) = pytree.tree_flatten(a), pytree.tree_flatten(b)
    if structure != other_structure:
        return False
    try:
        return all(
            torch.equal(x, y.to(x.device)) if isinstance(x, Tensor) and isinstance(y, Tensor) else bool(x == y)
            for x, y in zip(leaves, others, strict=True)
        )
    except Exception:  # whatever a user's class raises
        return False
