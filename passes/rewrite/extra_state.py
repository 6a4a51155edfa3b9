"""Carried: what a module's state dict holds beside tensors, where another module stands for it in a network.

Its class's version, by which `load_state_dict` of that class knows an older layout, and its extra state.
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
    """Let a module that stands for `source` give the same version and extra state."""
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
    """Take the extra state out, for the graph was captured with one: another would have to be captured again."""
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
    """True for trees of equal tensors and values; what cannot be compared is not the same."""
    (leaves, form), (others, other_form) = pytree.tree_flatten(a), pytree.tree_flatten(b)
    if form != other_form:
        return False
    try:
        return all(
            torch.equal(x, y.to(x.device)) if isinstance(x, Tensor) and isinstance(y, Tensor) else bool(x == y)
            for x, y in zip(leaves, others, strict=True)
        )
    except Exception:  # whatever a user's class raises
        return False
