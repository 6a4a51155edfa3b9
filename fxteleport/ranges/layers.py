"""Layers: the calls of a graph that multiply their input by a weight, in any spelling.

`nn.Conv2d`, `F.conv2d` and `torch.conv2d` are recognised by their common rule. A call whose weight is computed, and no
parameter, is no layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from fxteleport.passes.errors import Decline
from fxteleport.passes.rules.registry import bound, lookup

# The rules of `passes/rules/weighted.py` with one weight -> the axes of its outputs and inputs (of a group, where the
# convolution is grouped).
AXES = {"linear": (0, 1), "convolution": (0, 1), "transposed_convolution": (1, 0)}

# Those with matrices inside of calls that do more (`held_weights.py`) -> the axis of the outputs in their matrices.
HELD = {
    "embedding": 1,
    "embedding_bag": 1,
    "embedding_bag_of": 1,
    "multihead_attention_layer": 0,
    "multihead_attention": 0,
    "recurrent": 0,
    "recurrent_function": 0,
}


@dataclass(frozen=True)
class Layer:
    """One call of a weighted operation.

    Attributes:
        node: the call.
        kind: the name of its rule, a key of `AXES` or `HELD`.
        input: the node of the tensor that is multiplied.
        weight, bias: names of parameters (or buffers); a layer may have no bias.
        has_fixed_bias: it has a computed bias, which is no parameter.
        settings: its other arguments by name (stride, padding, groups...).
    """

    node: fx.Node
    kind: str
    input: fx.Node
    weight: str
    bias: str | None
    has_fixed_bias: bool
    settings: dict[str, Any]

    @property
    def groups(self) -> int:
        """The number of groups of its channels."""
        return int(self.settings.get("groups", 1))

    @property
    def out_axis(self) -> int:
        """The axis of the weight along which its outputs are."""
        return HELD[self.kind] if self.is_held else AXES[self.kind][0]

    @property
    def is_held(self) -> bool:
        """Whether its call does more than this layer (`held_weights.py`)."""
        return self.kind in HELD


@dataclass(frozen=True)
class NamedTensor:
    """A parameter or buffer among the arguments of a call."""

    name: str


def arguments(node: fx.Node, module_at: Callable[[str], nn.Module | None]) -> tuple[str, dict[str, Any]] | None:
    """The name of a call's rule, and its arguments by name; None where no rule covers the call.

    Args:
        module_at: the module of a `call_module` node's target, or None.
    """
    module = module_at(str(node.target)) if node.op == "call_module" else None
    rule = lookup(node.op, module if node.op == "call_module" else node.target)
    if rule is None:
        return None
    try:
        values, _ = bound(rule, node.args, node.kwargs, module, lambda name: NamedTensor(f"{node.target}.{name}"))
    except Decline:
        return None
    names = [name for name, _ in rule.parameters]
    return rule.name, {name: _tensor(x) for name, x in zip(names, values, strict=False)}


def _tensor(x: Any) -> Any:
    return NamedTensor(str(x.target)) if isinstance(x, fx.Node) and x.op == "get_attr" else x


def layer_of(node: fx.Node, module_at: Callable[[str], nn.Module | None]) -> Layer | None:
    """The layer that a node calls, or None."""
    if node.op not in ("call_module", "call_function", "call_method"):
        return None
    read = arguments(node, module_at)
    if read is None or read[0] not in AXES:
        return None
    kind, given = read
    into, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
    if not isinstance(into, fx.Node) or not isinstance(weight, NamedTensor):
        return None
    named = isinstance(bias, NamedTensor)
    return Layer(node, kind, into, weight.name, bias.name if named else None, not (named or bias is None), given)


def layers_of(graph: fx.Graph, module_at: Callable[[str], nn.Module | None]) -> Iterator[Layer]:
    """The layers of a graph, in its order."""
    for node in graph.nodes:
        layer = layer_of(node, module_at)
        if layer is not None:
            yield layer


def module_finder(root: nn.Module) -> Callable[[str], nn.Module | None]:
    """`get_submodule`, with None for what is not there."""

    def module_at(path: str) -> nn.Module | None:
        try:
            return root.get_submodule(path)
        except AttributeError:
            return None

    return module_at
