"""Rewrite: graph + solution + CoB -> a new GraphModule.

The emitted network holds the original's parameters and buffers under the same names, scaled by their maps, and
the original's leaf modules. A node that needs another operation becomes a `TeleportedActivation`, or (where it
has parameters of its own) gets a `Rescale` before or after it (see `wraps`). With a CoB of 1 nothing is added.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.errors import ModelError
from fxteleport.passes.graph.leaf_modules import gradient_hooks
from fxteleport.passes.rewrite import wraps
from fxteleport.passes.rewrite.frozen_modules import excepted, take_modes
from fxteleport.passes.rewrite.other_graphs import OtherGraphs
from fxteleport.passes.rewrite.sides import Sides
from fxteleport.passes.rewrite.skeleton import skeleton
from fxteleport.passes.rewrite.teleported_network import TeleportedModule, copied_graph
from fxteleport.passes.scale.recipe import Recipe

_UNWRITABLE = frozenset('"\\\n\r')  # fx puts names between double quotes


def rewrite(
    captured: Captured, sides: Mapping[str, Sides], scaling: Recipe, numbers: Tensor, tau: Tensor
) -> TeleportedModule:
    """The teleported network.

    Args:
        captured: the model and its graph.
        sides: which nodes may need another operation (see `sides.settle`).
        scaling: the recipe for the model's tensors.
        numbers: the table that the recipe looks factors up in.
        tau: a number for every symbol.
    """
    copies: dict[str, Tensor] = {}

    def copied(name: str, tensor: Tensor) -> Tensor:
        name = captured.canonical.get(name, name)  # a buffer that forward has added since has no canonical name
        if name not in copies:
            copies[name] = tensor.detach().clone()
            if isinstance(tensor, nn.Parameter):
                copies[name] = nn.Parameter(copies[name], tensor.requires_grad)
                if tensor.requires_grad:  # a frozen tensor cannot have hooks
                    before, after = gradient_hooks(tensor)
                    for hook in before:
                        copies[name].register_hook(hook)
                    for hook in after:
                        copies[name].register_post_accumulate_grad_hook(hook)
        return copies[name]

    graphs = list(map(copied_graph, captured.graphs))
    root = skeleton(captured, captured.model, copied, captured.assigned)
    scaling.scale_(copies, numbers)
    device = next((t.device for t in copies.values()), torch.device("cpu"))
    wraps.mark(root, graphs, sides)
    values = wraps.cobs((slot for _, slot in wraps.slots_of(*graphs)), sides, tau, device)
    for graph in graphs:
        wraps.fill(root, graph, values)
    return _emitted(captured, captured.model, graphs, root)


def original(captured: Captured) -> TeleportedModule:
    """The captured graph on the model's own tensors (shared, not copied)."""
    root = skeleton(captured, captured.model, lambda name, tensor: tensor, captured.assigned)
    return _emitted(captured, captured.model, list(map(copied_graph, captured.graphs)), root)


def live(captured: Captured, model: nn.Module, sides: Mapping[str, Sides]) -> TeleportedModule:
    """The captured graph on the tensors that the captured model (or a copy of it) holds now, ready to be wrapped."""
    kept = model.state_dict().keys()
    assigned = {name: tensor for name, tensor in captured.assigned.items() if name not in kept}
    graphs = list(map(copied_graph, captured.graphs))
    root = skeleton(captured, model, lambda name, tensor: tensor, assigned)
    wraps.mark(root, graphs, sides)
    return _emitted(captured, model, graphs, root)


def _emitted(captured: Captured, model: nn.Module, graphs: list[fx.Graph], root: nn.Module) -> TeleportedModule:
    for graph in graphs:
        for node in graph.nodes:
            if node.op in ("call_module", "get_attr") and not _UNWRITABLE.isdisjoint(str(node.target)):
                raise ModelError(f"torch.fx cannot write code for the name {node.target!r}: rename it in the model")
        graph.lint()
    module = TeleportedModule.around(root.__dict__, graphs[0], type(model).__name__)
    module.choose(captured.choice, OtherGraphs.of(graphs[1:], len(captured.variants), captured.inner))
    module.__dict__["excepted"] = excepted(model, captured.followed, below=True)
    take_modes(module, model, captured.followed)
    module.link()
    return module
