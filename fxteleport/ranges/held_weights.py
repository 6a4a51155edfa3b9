"""Held weights: matrices of calls that are more than one matrix product: embeddings, attention, recurrent layers.

Equalising reads each matrix as a layer; its rows and columns are scaled by the plan's map of the tensor. The inputs of
these calls are not rounded. An embedding's outputs are its columns, and each word is an input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, fx, nn

from fxteleport.passes.rules.registry import lookup
from fxteleport.ranges.layers import HELD, Layer

_OF_THE_INPUT = ("in_proj_weight", "q_proj_weight", "weight_ih", "weight_ih_l0", "weight_ih_l0_reverse")


def held_weights(
    graph: fx.Graph, module_at: Callable[[str], nn.Module | None], tensor_at: Callable[[str], Tensor | None]
) -> Iterator[Layer]:
    """The matrices of a graph's embeddings, attention and recurrent layers, in its order.

    Args:
        module_at: the module of a `call_module` node's target, or None.
        tensor_at: the parameter or buffer of a name.
    """
    for node in graph.nodes:
        if node.op not in ("call_module", "call_function", "call_method"):
            continue
        module = module_at(str(node.target)) if node.op == "call_module" else None
        rule = lookup(node.op, module if node.op == "call_module" else node.target)
        into = next((x for x in node.all_input_nodes if x.op != "get_attr"), None)
        if rule is None or rule.name not in HELD or into is None:
            continue
        names = [str(x.target) for x in node.all_input_nodes if x.op == "get_attr"]
        if module is not None:
            names += [f"{node.target}.{name}" for name, _ in module.named_parameters()]
        tensors = {name: tensor_at(name) for name in names}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor is not None}
        for name, shape in shapes.items():
            if len(shape) == 2:
                bias = name.removesuffix("weight") + "bias" if name.endswith("weight") else ""
                own = bias if shapes.get(bias) == (shape[HELD[rule.name]],) else None
                yield Layer(node, rule.name, into, name, own, False, {})


def meets_the_input(layer: Layer) -> bool:
    """Whether a held matrix multiplies the call's own input, channel by channel."""
    return layer.weight.rpartition(".")[2] in _OF_THE_INPUT
