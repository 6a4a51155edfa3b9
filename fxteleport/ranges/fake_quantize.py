"""Fake quantisation: a network whose weights and layer inputs are rounded as an integer format rounds them.

It measures what a format costs, in floating point, for any network. Weights are rounded symmetrically,
scale = max|w| / (2^(bits - 1) - 1), for a tensor or for each output channel. The inputs of layers are rounded to steps
between their calibrated extremes, with zero among the steps, for a tensor (Krishnamoorthi, "Quantizing deep
convolutional networks for efficient inference", Section 2). Biases are not rounded: they have 32 bits. Of embeddings,
attention and recurrent layers only the matrices are rounded.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxteleport.checked import checked
from fxteleport.passes.errors import InputError
from fxteleport.ranges.calibrate import batches
from fxteleport.ranges.choices import check_bits
from fxteleport.ranges.held_weights import held_weights
from fxteleport.ranges.layers import Layer, layers_of, module_finder
from fxteleport.ranges.tensors import get_tensor, set_tensor
from fxteleport.ranges.weight_reading import by_group


class FakeQuantize(nn.Module):
    """Rounds a tensor to the steps of an affine format, once its extremes are observed.

    Args:
        bits: of the format.
    """

    low: Tensor
    high: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits, self.observing = bits, False
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """[...] -> [...]."""
        if self.observing:
            low, high = torch.aminmax(x.detach())
            self.low, self.high = torch.minimum(self.low.to(low), low), torch.maximum(self.high.to(high), high)
            return x
        steps = 2**self.bits - 1
        scale = float(self.high - self.low) / steps
        if scale == 0:
            return x
        zero = round(-float(self.low) / scale)
        zero = min(max(zero, 0), steps)  # torch's own fake quantisation takes four times as long
        steps_of: Tensor = (x / scale).round_().clamp_(-zero, steps - zero)
        return steps_of.mul_(scale)


def quantized_weight(weight: Tensor, bits: int, layer: Layer, per_channel: bool) -> Tensor:
    """A layer's weight rounded to a symmetric format: one scale, or one for each output channel."""
    grouped = by_group(weight.detach(), layer)
    size = grouped.abs()
    largest = size.amax((2, 3), keepdim=True) if per_channel else size.max()
    scale = (largest / (2 ** (bits - 1) - 1)).clamp_min(torch.finfo(weight.dtype).tiny)
    rounded: Tensor = (grouped / scale).round() * scale
    return (rounded if layer.out_axis == 0 else rounded.transpose(1, 2)).reshape(weight.shape)


@checked
def fake_quantize(
    network: fx.GraphModule,
    bits: int = 8,
    per_channel: bool = False,
    activation_bits: int | None = None,
    data: Iterable[Any] | None = None,
) -> fx.GraphModule:
    """A copy of a network whose layers have rounded weights, and with `activation_bits` rounded inputs.

    Args:
        network: an emitted network: of `fold_norms`, or of a plan.
        bits: of the weights, 2 to 16.
        per_channel: a scale for each output channel, not for each tensor.
        activation_bits: of the inputs of the layers; None leaves them as they are.
        data: batches to observe their extremes on: each is the argument of the network, or a tuple of them.

    Raises:
        InputError: the bits are not such numbers; there are no data for the activations; the network has no layer.
    """
    check_bits(bits)
    if activation_bits is not None:
        check_bits(activation_bits, "activation_bits")
    quantized = copy.deepcopy(network)
    find, tensors = module_finder(quantized), dict(quantized.named_parameters(remove_duplicate=False))
    layers = list(layers_of(quantized.graph, find))
    if not layers:
        raise InputError("the network has no layer with a weight that is a parameter: there is nothing to quantise")
    done: set[str] = set()
    for layer in [*layers, *held_weights(quantized.graph, find, tensors.get)]:
        if layer.weight not in done:
            done.add(layer.weight)
            weight = get_tensor(quantized, layer.weight)
            set_tensor(quantized, layer.weight, quantized_weight(weight, bits, layer, per_channel))
    if activation_bits is not None:
        _observe(quantized, layers, activation_bits, data)
    return quantized


def _observe(network: fx.GraphModule, layers: list[Layer], bits: int, data: Iterable[Any] | None) -> None:
    """Put quantisers before the layers' inputs, and calibrate them."""
    quantizers: dict[fx.Node, fx.Node] = {}
    added: list[FakeQuantize] = []
    for layer in layers:
        if layer.input not in quantizers:
            name = f"fake_quantize_{len(quantizers)}"
            added.append(FakeQuantize(bits))
            network.add_module(name, added[-1])
            with network.graph.inserting_after(layer.input):
                quantizers[layer.input] = network.graph.call_module(name, (layer.input,))
        layer.node.replace_input_with(layer.input, quantizers[layer.input])
    network.recompile()
    seen = False
    for quantizer in added:
        quantizer.observing = True
    with torch.no_grad():
        for args, kwargs in batches(data or ()):
            network(*args, **kwargs)
            seen = True
    if not seen:
        raise InputError("rounded activations need data to take their extremes from: pass a few batches")
    for quantizer in added:
        quantizer.observing = False
