"""Fixed tensors: parameters and buffers that keep their values, whatever the rules allow."""

from __future__ import annotations

from collections.abc import Iterator

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.graph.leaf_modules import gradient_hooks


def fixed_tensors(captured: Captured, mode: str) -> frozenset[str]:
    """The canonical names of the parameters and buffers whose CoB is 1 in this mode."""
    fixed = {*unsaved(captured), *_with_hooks(captured), *captured.reached_names, *captured.beside_inner}
    if mode == "weights":
        fixed |= captured.overlapping | captured.named | captured.held  # code may hold another reference to these
    return frozenset(fixed)


def unsaved(captured: Captured) -> Iterator[str]:
    """Buffers outside the state dict: no checkpoint has them, so they stay as the model computes them."""
    for path, module in captured.parts.items():
        for name in getattr(module, "_non_persistent_buffers_set", ()):
            full_name = f"{path}.{name}" if path else name
            if full_name in captured.canonical:
                yield captured.canonical[full_name]


def _with_hooks(captured: Captured) -> Iterator[str]:
    """Parameters whose gradients a hook may change."""
    for path, module in captured.parts.items():
        for name, parameter in module._parameters.items():
            if parameter is not None and any(gradient_hooks(parameter)):
                yield captured.canonical[f"{path}.{name}" if path else name]
