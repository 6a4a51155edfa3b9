"""Fold norms: batch norms in eval mode become part of the neighbouring layers, as quantisers expect.

    W x + b, then scale * y + shift     ->   (scale W) x + (scale b + shift)             folded into the layer before
    scale * x + shift, then W x + b     ->   (W scale) x + (b + sum_x W shift)           folded into all layers behind

The second needs a layer without zero padding: at a padded border the shift is not added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.checked import checked
from fxteleport.passes.errors import ModelError
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.rewrite.teleported_network import TeleportedModule
from fxteleport.plan.plan import Plan, plan
from fxteleport.ranges.layers import Layer, layer_of, module_finder
from fxteleport.ranges.norm_layers import Norm, norm_of
from fxteleport.ranges.tensors import get_tensor, remove_unused, set_tensor, uses_of
from fxteleport.ranges.weight_reading import by_group

FOLDED = "folded_norms"  # in the network's meta


@dataclass
class Folded:
    """The result of `fold_norms`: the norms that it folded, and those that it kept, each with the reason."""

    folded: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


@checked
def fold_norms(model: nn.Module, *example_inputs: Any, strict: bool = False, **keyword_inputs: Any) -> TeleportedModule:
    """A network in eval mode whose batch norms are folded into the layers beside them; the model is not touched.

    The pairs are found in the model's graph, by what it computes, not by names: linear layers and convolutions of any
    rank, grouped, depthwise, transposed, as modules or as functions, with identities and idle dropout between.
    Parameters that are not folded keep their names and values; a layer without a bias gets one. The function is that of
    the model in eval mode, to the rounding of the weights' number format (1e-12 in float64).

    Kept, each with its reason in `folded_norms(network).kept`: a norm that is fed, or read, by something else than
    a layer (a sum, a concatenation, an activation on both sides); by a layer whose weight or output has other uses; a
    shift before a zero-padded or transposed convolution; norms that compute statistics from their input (layer, group
    and RMS norm, batch norm without running statistics); norms written out as arithmetic.

    Args:
        model: any model that `plan` takes.
        example_inputs: what its forward takes, in order.
        keyword_inputs: what it takes by name.
        strict: fold all, or raise.

    Raises:
        ModelError: `strict`, and a norm is kept; the model is on the meta device, or none that `plan` takes.
        CaptureError: the model does not run on these inputs.
    """
    planned = plan(model, *example_inputs, mode="full", **keyword_inputs)
    network = planned.rewrite(planned.identity())
    network.release()
    network.__dict__.update(choice=None, in_training=None)  # folded, a network has one graph, that of eval mode
    network.eval()
    folded = _fold(network, _ranks(planned))
    if strict and folded.kept:
        name, why = next(iter(folded.kept.items()))
        raise ModelError(f"the norm '{name}' cannot be folded: {why} ({len(folded.kept)} of them; strict=False keeps"
                         " these and folds the rest)")  # fmt: skip
    remove_unused(network)
    network.graph.lint()
    network.recompile()
    network.meta[FOLDED] = folded
    return network


@checked
def folded_norms(network: nn.Module) -> Folded:
    """What `fold_norms` folded in a network, and what it kept."""
    folded: Folded = getattr(network, "meta", {}).get(FOLDED, Folded())
    return folded


def _ranks(planned: Plan) -> Callable[[fx.Node], int]:
    """The rank of the tensor of an emitted network's node; -1 for a node without a tensor."""
    values = {node.name: info(node).value for node in planned.captured.graph.nodes}

    def rank(node: fx.Node) -> int:
        value = values.get(info(node).captured)
        return value.ndim if isinstance(value, Tensor) else -1

    return rank


def _fold(network: TeleportedModule, rank: Callable[[fx.Node], int]) -> Folded:
    done, module_at = Folded(), module_finder(network)
    work = _Folding(network, module_at, rank)
    for node in list(network.graph.nodes):
        norm = norm_of(node, module_at, lambda name: get_tensor(network, name))
        if norm is None:
            continue
        why = norm.kept or work.into_layer_before(norm)
        if why and not norm.kept:
            behind = work.into_layers_behind(norm)
            why = behind and f"{why}; {behind}"
        if why:
            done.kept[norm.name] = why
            continue
        done.folded.append(norm.name)
        norm.node.replace_all_uses_with(norm.input)
        network.graph.erase_node(norm.node)
    return done


@dataclass
class _Folding:
    """The folding of one network."""

    network: TeleportedModule
    module_at: Callable[[str], nn.Module | None]
    rank: Callable[[fx.Node], int]

    def into_layer_before(self, norm: Norm) -> str:
        """Fold a norm into the layer before it; or return why not, and change nothing."""
        source = norm.input
        while len(source.users) == 1 and self._is_identity(source):
            source = source.args[0]  # type: ignore[assignment]
        layer = layer_of(source, self.module_at)
        if layer is None:
            return f"what it normalises, '{source.name}', is no output of a linear layer or a convolution"
        if len(source.users) > 1:
            return f"the output of '{source.name}' has other uses than this norm"
        why = self._not_alone(layer) or self._other_channels(layer, source)
        if why:
            return why
        assert norm.scale is not None and norm.shift is not None
        weight, bias = self._weight(layer), self._bias(layer)
        self._put(layer, _scaled(weight, norm.scale, layer, out=True),
                  norm.shift if bias is None else bias * norm.scale + norm.shift)  # fmt: skip
        return ""

    def into_layers_behind(self, norm: Norm) -> str:
        """Fold a norm into the layers that read it; or return why not, and change nothing."""
        assert norm.scale is not None and norm.shift is not None
        layers: list[Layer] = []
        waiting = list(norm.node.users)
        while waiting:
            user = waiting.pop()
            if self._is_identity(user):
                waiting += list(user.users)
                continue
            layer = layer_of(user, self.module_at)
            if layer is None or any(x is not layer.input and self._reads(norm.node, x) for x in user.all_input_nodes):
                return f"what reads it, '{user.name}', is no linear layer or convolution"
            layers.append(layer)
        for layer in layers:
            why = self._not_alone(layer) or self._other_channels(layer, layer.input) or _border(self, layer, norm.shift)
            if why:
                return why
        if not layers:
            return "nothing reads it"
        for layer in layers:
            weight, bias = self._weight(layer), self._bias(layer)
            moved = _of_shift(weight, norm.shift, layer)
            self._put(layer, _scaled(weight, norm.scale, layer, out=False), moved if bias is None else bias + moved)
        return ""

    def _reads(self, norm: fx.Node, node: fx.Node) -> bool:
        while self._is_identity(node):
            node = node.args[0]  # type: ignore[assignment]
        return node is norm

    def _is_identity(self, node: fx.Node) -> bool:
        module = self.module_at(str(node.target)) if node.op == "call_module" else None
        return isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd)) and len(node.all_input_nodes) == 1

    def _not_alone(self, layer: Layer) -> str:
        if layer.has_fixed_bias:
            return f"the bias of '{layer.node.name}' is computed"
        for name in (layer.weight, layer.bias):
            if name is not None and uses_of(self.network, name) > 1:
                return f"'{name}' of '{layer.node.name}' is shared: it has other uses"
        return ""

    def _other_channels(self, layer: Layer, value: fx.Node) -> str:
        expected = 2 if layer.kind == "linear" else get_tensor(self.network, layer.weight).ndim
        if self.rank(value) == expected:
            return ""
        return f"the norm's channels are not those of '{layer.node.name}', which has another axis for them"

    def _weight(self, layer: Layer) -> Tensor:
        return get_tensor(self.network, layer.weight).detach().double()

    def _bias(self, layer: Layer) -> Tensor | None:
        return None if layer.bias is None else get_tensor(self.network, layer.bias).detach().double()

    def _put(self, layer: Layer, weight: Tensor, bias: Tensor) -> None:
        old = get_tensor(self.network, layer.weight)
        set_tensor(self.network, layer.weight, weight.to(old))
        if layer.bias is not None:
            set_tensor(self.network, layer.bias, bias.to(old))
            return
        holder, _, _ = layer.weight.rpartition(".")
        name = f"{holder}.bias" if holder else "bias"
        owner = self.network.get_submodule(holder)
        if layer.node.op != "call_module" and getattr(owner, "bias", None) is not None:
            name = f"{layer.weight}_bias"
        set_tensor(self.network, name, bias.to(old))
        if layer.node.op == "call_module":
            return
        graph = self.network.graph
        with graph.inserting_before(layer.node):
            node = graph.get_attr(name)
        if len(layer.node.args) > 2:
            layer.node.update_arg(2, node)
        else:
            layer.node.update_kwarg("bias", node)


def _border(work: _Folding, layer: Layer, shift: Tensor) -> str:
    if layer.kind == "linear" or not bool(shift.any()):
        return ""
    if layer.kind == "transposed_convolution":
        return f"'{layer.node.name}' is transposed: at its border some inputs are missing, and with them the shift"
    module = work.module_at(str(layer.node.target)) if layer.node.op == "call_module" else None
    padding = layer.settings.get("padding", 0)
    padded = (
        padding != "valid"
        if isinstance(padding, str)
        else any(padding if isinstance(padding, (tuple, list)) else [padding])
    )
    if padded and getattr(module, "padding_mode", "zeros") == "zeros":
        return f"'{layer.node.name}' pads with zeros, where the norm's shift is not added"
    return ""


def _scaled(weight: Tensor, scale: Tensor, layer: Layer, out: bool) -> Tensor:
    grouped = by_group(weight, layer)
    factor = scale.view(layer.groups, -1, 1, 1) if out else scale.view(layer.groups, 1, -1, 1)
    scaled = grouped * factor.to(weight.device)
    return (scaled if layer.out_axis == 0 else scaled.transpose(1, 2)).reshape(weight.shape)


def _of_shift(weight: Tensor, shift: Tensor, layer: Layer) -> Tensor:
    """The layer's output for a constant input of `shift`, [outputs]."""
    return torch.einsum("goip,gi->go", by_group(weight, layer), shift.view(layer.groups, -1)).reshape(-1)
