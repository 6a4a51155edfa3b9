"""torch's Transformer encoder with a padding mask, as one layer.

In eval mode it runs on nested tensors, by fused kernels, where the mask allows it. These round differently from the
separate operations, and give zero at the padding. So the layer stays one call, with teleported weights. Nothing inside
can be wrapped: a CoB is free only where the parameters can carry it.
"""

from __future__ import annotations

from torch import nn

from fxteleport.passes.domain.cob_map import IDENTITY, CobMap
from fxteleport.passes.rules import shape_functions
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.operand import Operand
from fxteleport.passes.rules.registry import rule
from fxteleport.passes.rules.weighted import on_axis, stacked

_SCALED = "weight * out / in"
_MOVED = "bias * out"


@rule(nn.TransformerEncoder, shape=shape_functions.same)
def transformer_encoder(
    call: Call, src: Operand, mask: Operand | None = None, src_key_padding_mask: Operand | None = None,
    is_causal: bool | None = None,
) -> CobMap:  # fmt: skip
    """Each sum is normalised: the stream is pinned up to the last norm, whose output is free."""
    encoder: nn.TransformerEncoder = call.module  # type: ignore[assignment]
    if encoder.norm is not None and type(encoder.norm) is not nn.LayerNorm:
        call.decline(f"its last norm is a {type(encoder.norm).__name__}")
    call.pin(src.map, "it is added to what a norm normalises")
    for x in (mask, src_key_padding_mask):
        if isinstance(x, Operand):
            call.pin(x.map, "it is added to the attention logits")
    layers = [m for m in encoder.layers if isinstance(m, nn.TransformerEncoderLayer)]
    last = encoder.norm if encoder.norm is not None else layers[-1].norm2
    out = call.fresh((src.shape[-1],)) if last.weight is not None else IDENTITY
    for i, layer in enumerate(layers):
        is_last = encoder.norm is None and i == len(layers) - 1
        _layer(call, layer, f"layers.{i}.", out if is_last else IDENTITY)
    if encoder.norm is not None:
        _tensors(call, "norm.", out, IDENTITY, is_matrix=False)
    return on_axis(out, -1, call.value.ndim)


def _layer(call: Call, layer: nn.TransformerEncoderLayer, path: str, out: CobMap) -> None:
    """Queries and keys have inverse CoBs, values and what a ReLU gives are free."""
    n = layer.self_attn.embed_dim
    k, v = call.fresh((n,), "keys (queries have the inverse)"), call.fresh((n,), "values")
    f = IDENTITY
    if layer.activation_relu_or_gelu == 1:
        f = call.fresh((layer.linear1.out_features,), "hidden units")
        call.positive(f, "a ReLU is not wrapped in there")
    hidden = stacked([k**-1, k, v], n)
    call.require(_tensor(call, path + "self_attn.in_proj_weight"), on_axis(hidden, 0, 2), _SCALED)
    call.require(_tensor(call, path + "self_attn.in_proj_bias"), hidden, _MOVED)
    _tensors(call, path + "self_attn.out_proj.", IDENTITY, v)
    _tensors(call, path + "linear1.", f, IDENTITY)
    _tensors(call, path + "linear2.", IDENTITY, f)
    _tensors(call, path + "norm1.", IDENTITY, IDENTITY, is_matrix=False)
    _tensors(call, path + "norm2.", out, IDENTITY, is_matrix=False)


def _tensors(call: Call, path: str, out: CobMap, into: CobMap, is_matrix: bool = True) -> None:
    weight = on_axis(out, 0, 2) / on_axis(into, 1, 2) if is_matrix else out
    call.require(_tensor(call, path + "weight"), weight, _SCALED)
    call.require(_tensor(call, path + "bias"), out, _MOVED)


def _tensor(call: Call, name: str) -> Operand | None:
    full_name = f"{call.node.target}.{name}"
    return call.state.parameters.operand(full_name) if full_name in call.state.parameters else None
