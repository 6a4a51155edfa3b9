"""Refusals: calls that are opaque whatever their rule says, each with the reason."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.constrain.fitting import has_more
from fxteleport.passes.graph.leaf_modules import changes_gradients, hooked
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.ops import leaves_of, name_of


def refusal(captured: Captured, node: fx.Node, module: nn.Module | None, value: Any, sized: Any) -> str | None:
    """Why a call that returns tensors is opaque; None if its rule may be applied.

    Args:
        module: the module that the node calls, if any.
        value, sized: its result in the example, and what is known of the result's sizes.
    """
    if info(node).trust and any(isinstance(x, Tensor) and not x.numel() for x in leaves_of(value)):
        return "the run decides its size, and the example inputs leave nothing of it"
    if has_more(value, sized):
        return "other inputs give it elements, of which the example inputs leave none"
    if module is None:
        return None
    if str(node.target) in captured.opaque:
        return f"it could not be traced: {captured.opaque[str(node.target)]}"
    if changes_gradients(module):
        return "it has backward hooks, which may change its gradients"
    return "it has forward hooks, which may change its values" if hooked(module) else None


def refusal_without_tensors(node: fx.Node, value: Any) -> str | None:
    """Why a call that takes tensors and returns none is opaque; None if it is harmless."""
    if info(node).has_effect:
        return "it may write to its inputs"
    facts = all(isinstance(x, _FACTS) for x in leaves_of(value))
    return None if facts else f"it returns a {type(value).__name__}"  # an object may hide tensors


def reads_numbers(node: fx.Node, value: Any) -> bool:
    """True for a call that may compute a number from the values of tensors (`h.mean().item()`), not only from sizes."""
    if node.op in ("call_function", "call_method") and name_of(node.target).strip("_") in _OF_FORM:
        return False
    return any(isinstance(x, (int, float, complex)) for x in leaves_of(value))


_OF_FORM = frozenset(
    "size dim ndimension numel nelement stride storage_offset len getattr element_size get_device".split()
)

# Facts about a tensor, which do not depend on its values: sizes, types, devices.
_FACTS = (int, float, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
