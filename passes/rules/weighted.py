"""Weighted: linear, convolution, embedding, bilinear, attention's projections.

The CoB of the inputs must not vary over positions that share a weight. Outputs are free, one CoB a channel.
Rewritten: weight * out / in, bias * out (paper, eq. 1).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxteleport.passes.domain.cob_map import IDENTITY, ONE, CobMap, reshape, single
from fxteleport.passes.rules import folds, shape_functions
from fxteleport.passes.rules.axes import FROM_THE_RIGHT
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.operand import Operand, Unknown
from fxteleport.passes.rules.registry import named, rule

SHARED = "these positions share one weight"


def channel(call: Call, input: Operand, axis: int) -> CobMap:
    """The input's CoB by channel, as a vector; required constant over every other axis."""
    others = [i for i in range(input.rank) if i != axis % input.rank]
    cob = call.constant(input.map, others, SHARED)
    return cob.each(lambda s: s.reshape(-1))


def on_axis(vector: CobMap, axis: int, rank: int) -> CobMap:
    """A vector placed on one axis of a tensor."""
    shape = [1] * rank
    shape[axis] = -1
    return vector.each(lambda s: s.view(shape))


def single_term(call: Call, input: Operand, terms: int, bias: Operand | None) -> None:
    """A sum of one product has the sign of its zero, as a product has (see `bilinear`): its factor is positive."""
    if terms == 1 and bias is None:
        call.positive(input.map, "a product of one weight keeps the sign of a zero")


@rule(*named("linear"), nn.Linear, shape=shape_functions.linear, axes=FROM_THE_RIGHT)
def linear(call: Call, input: Operand, weight: Operand, bias: Operand | None = None) -> CobMap:
    if weight.rank != 2:
        call.decline("its weight is one row, not a matrix")
    single_term(call, input, weight.shape[-1], bias)
    cob = input.map
    passing = IDENTITY
    if bias is None:
        # Factors that vary over positions but not over features pass: out / in is the same everywhere.
        passing = CobMap(tuple(f for f in cob.factors if f[0].size(-1) == 1 and f[0].numel() > 1), cob.zeros)
        cob = CobMap(tuple(f for f in cob.factors if not (f[0].size(-1) == 1 and f[0].numel() > 1)), cob.zeros)
    cob = call.constant(cob, range(input.rank - 1), SHARED).each(lambda s: s.reshape(-1))
    out = call.fresh(weight.shape[:1])
    call.require(weight, on_axis(out, 0, 2) / on_axis(cob, 1, 2), "weight * out / in")
    call.require(bias, out, "bias * out")
    return on_axis(out, -1, call.value.ndim) * passing


def convolved(
    call: Call, input: Operand, weight: Operand, bias: Operand | None, groups: int, transposed: bool = False
) -> CobMap:
    """A convolution of any rank; the weight is [out, in / groups, *k], or transposed [in, out / groups, *k].

    Seen by groups the weight is [groups, rows, columns, *k], where a group's rows meet its columns only.
    """
    spatial = weight.rank - 2
    at = input.rank - spatial - 1
    single_term(call, input, weight.shape[0] // groups if transposed else math.prod(weight.shape[1:]), bias)
    into = channel(call, input, at)
    out = call.fresh((weight.shape[1] * groups if transposed else weight.shape[0],))
    if groups == 1:
        row, column = (1, 0) if transposed else (0, 1)
        call.require(weight, on_axis(out, row, weight.rank) / on_axis(into, column, weight.rank), "weight * out / in")
        call.require(bias, out, "bias * out")
        return on_axis(out, at, call.value.ndim)
    grouped = (groups, weight.shape[0] // groups, *weight.shape[1:])
    rows, columns = (groups, -1, 1), (groups, 1, -1)

    def by_group(vector: CobMap, shape: tuple[int, ...]) -> CobMap:
        tail = (..., *[None] * spatial)
        return vector.each(lambda s: (s.view(shape) if s.numel() > 1 else s.view(1, 1, 1))[tail])

    ratio = by_group(out, columns if transposed else rows) / by_group(into, rows if transposed else columns)
    if weight.is_unbound:
        shape = tuple(weight.shape)
        call.require(weight, ratio.each(lambda s: reshape(s, grouped, shape)), "weight * out / in")
    else:
        own = weight.map.each(lambda s: reshape(s, tuple(weight.shape), grouped))
        call.same(own, ratio, "weight * out / in")
    call.require(bias, out, "bias * out")
    return on_axis(out, at, call.value.ndim)


@rule(
    *named("conv1d conv2d conv3d"),
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    shape=shape_functions.convolution,
    along=folds.by_group,
    axes=FROM_THE_RIGHT,
)
def convolution(
    call: Call, input: Operand, weight: Operand, bias: Operand | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int | Unknown = 1,
) -> CobMap:  # fmt: skip
    if isinstance(groups, Unknown):
        if not (folds.grouped_by_batch(input, weight, groups) and type(call.settled(weight.sizes[1])) is int):
            call.decline("how many groups there are is not known")
        groups = int(groups.value)  # there are as many in each example of the batch
    return convolved(call, input, weight, bias, groups)


@rule(*named("_grouped_mm grouped_mm"), shape=shape_functions.grouped_linear)
def grouped_linear(
    call: Call, input: Operand, weight: Operand, offs: Operand | None = None, bias: Operand | None = None,
    out_dtype: Any = None,
) -> CobMap:  # fmt: skip
    """Experts: rows [n, in] in groups, each multiplied by a weight of its own, [groups, in, out].

    The data decides which rows an expert gets, so all experts share the CoBs of the input and of the output.
    """
    if (input.rank, weight.rank) != (2, 3):
        call.decline("it is not rows in groups against a stack of weights")
    into, out = channel(call, input, 1), call.fresh(weight.shape[2:])
    call.require(weight, on_axis(out, 2, 3) / on_axis(into, 1, 3), "weight * out / in")
    return on_axis(out, 1, 2)


@rule(
    *named("conv_transpose1d conv_transpose2d conv_transpose3d"),
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    axes=FROM_THE_RIGHT,
)  # fmt: skip
def transposed_convolution(
    call: Call, input: Operand, weight: Operand, bias: Operand | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1, output_size: Any = None,
) -> CobMap:  # fmt: skip
    return convolved(call, input, weight, bias, groups, transposed=True)


@rule(*named("embedding"), nn.Embedding, shape=shape_functions.embedding, axes=FROM_THE_RIGHT)
def embedding(
    call: Call, input: Operand, weight: Operand, padding_idx: Any = None, max_norm: Any = None, *rest: Any,
    **settings: Any,
) -> CobMap:  # fmt: skip
    """Rows are picked by data, so they share the CoB; columns are free."""
    if max_norm is not None:
        call.decline("it renormalises its rows")
    out = call.fresh(weight.shape[1:])
    call.require(weight, on_axis(out, 1, 2), "rows are picked by their index")
    return on_axis(out, -1, call.value.ndim)


def bags(
    call: Call, input: Operand, weight: Operand, mode: str, max_norm: Any, per_sample_weights: Operand | None
) -> CobMap:
    """Rows of an embedding, put together by their mean, sum, or largest."""
    out: CobMap = embedding(call, input, weight, max_norm=max_norm)
    call.require(per_sample_weights, IDENTITY, "a row's weight multiplies all columns")
    if mode == "max":
        call.positive(out, "a negative CoB would pick another row")
    return out


@rule(nn.EmbeddingBag)
def embedding_bag(
    call: Call, input: Operand, offsets: Operand | None = None, per_sample_weights: Operand | None = None,
    weight: Any = None, mode: str = "mean", max_norm: Any = None,
) -> CobMap:  # fmt: skip
    return bags(call, input, weight, mode, max_norm, per_sample_weights)


@rule(F.embedding_bag)
def embedding_bag_of(
    call: Call, input: Operand, weight: Operand, offsets: Operand | None = None, max_norm: Any = None,
    norm_type: Any = 2, scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
    per_sample_weights: Operand | None = None, include_last_offset: bool = False, padding_idx: Any = None,
) -> CobMap:  # fmt: skip
    return bags(call, input, weight, mode, max_norm, per_sample_weights)


@rule(*named("bilinear"), nn.Bilinear)
def bilinear(call: Call, input1: Operand, input2: Operand, weight: Operand, bias: Operand | None = None) -> CobMap:
    out = call.fresh(weight.shape[:1])
    a, b = channel(call, input1, -1), channel(call, input2, -1)
    call.require(weight, on_axis(out, 0, 3) / on_axis(a, 1, 3) / on_axis(b, 2, 3), "weight * out / in")
    call.require(bias, out, "bias * out")
    return on_axis(out, -1, call.value.ndim)


@rule(nn.MultiheadAttention, shape=shape_functions.attention_layer)
def multihead_attention_layer(
    call: Call, query: Operand, key: Operand, value: Operand, key_padding_mask: Operand | None = None,
    need_weights: bool = True, attn_mask: Operand | None = None, average_attn_weights: bool = True,
    is_causal: bool = False, in_proj_weight: Operand | None = None, q_proj_weight: Operand | None = None,
    k_proj_weight: Operand | None = None, v_proj_weight: Operand | None = None,
    in_proj_bias: Operand | None = None, bias_k: Operand | None = None, bias_v: Operand | None = None,
) -> Any:  # fmt: skip
    path = f"{call.node.target}.out_proj."
    bias = call.state.parameters.operand(path + "bias") if path + "bias" in call.state.parameters else None
    return attended(
        call, (query, key, value), in_proj_weight, (q_proj_weight, k_proj_weight, v_proj_weight), in_proj_bias,
        (bias_k, bias_v), (call.state.parameters.operand(path + "weight"), bias), (key_padding_mask, attn_mask),
    )  # fmt: skip


@rule(F.multi_head_attention_forward, shape=shape_functions.attention_layer, axes=FROM_THE_RIGHT)
def multihead_attention(
    call: Call, query: Operand, key: Operand, value: Operand, embed_dim_to_check: Any, num_heads: Any,
    in_proj_weight: Operand | None, in_proj_bias: Operand | None, bias_k: Operand | None, bias_v: Operand | None,
    add_zero_attn: bool, dropout_p: float, out_proj_weight: Operand, out_proj_bias: Operand | None,
    training: bool = True, key_padding_mask: Operand | None = None, need_weights: bool = True,
    attn_mask: Operand | None = None, use_separate_proj_weight: bool = False, q_proj_weight: Operand | None = None,
    k_proj_weight: Operand | None = None, v_proj_weight: Operand | None = None, static_k: Operand | None = None,
    static_v: Operand | None = None, average_attn_weights: bool = True, is_causal: bool = False,
) -> Any:  # fmt: skip
    if static_k is not None or static_v is not None:
        call.decline("its keys or values are given as they are")
    separate = (q_proj_weight, k_proj_weight, v_proj_weight)
    for unused in separate if not use_separate_proj_weight else (in_proj_weight,):
        call.shape_only(unused)
    return attended(
        call, (query, key, value), None if use_separate_proj_weight else in_proj_weight, separate, in_proj_bias,
        (bias_k, bias_v), (out_proj_weight, out_proj_bias), (key_padding_mask, attn_mask),
    )  # fmt: skip


def attended(
    call: Call, given: tuple[Operand, ...], in_proj_weight: Operand | None, separate: tuple[Operand | None, ...],
    in_proj_bias: Operand | None, extra: tuple[Operand | None, Operand | None],
    out_proj: tuple[Operand, Operand | None], masks: tuple[Operand | None, ...],
) -> Any:  # fmt: skip
    """Hidden q, k and v: q's CoB is the inverse of k's by head and dimension; v's is free, and the projection takes it.

    Args:
        given: query, key and value.
        in_proj_weight, separate: the weight that projects all three, or the three that project one each.
        extra: one more key and one more value.
    """
    for mask in masks:
        if mask is not None:
            call.pin(mask.map, "it is added to the attention logits")
    n = given[0].shape[-1]
    k, v = call.fresh((n,), "keys (queries have the inverse)"), call.fresh((n,), "values")
    inputs = [channel(call, x, -1) for x in given]
    hidden = [k**-1, k, v]
    if in_proj_weight is not None:
        first = call.filled(inputs[0], "one weight projects zeros and other values")
        for other in inputs[1:]:
            call.same(first, other, "one weight projects the query, the key and the value")
        call.require(in_proj_weight, on_axis(stacked(hidden, n), 0, 2) / on_axis(first, 1, 2), "weight * out / in")
    else:
        for weight, out, into in zip(separate, hidden, inputs, strict=True):
            call.require(weight, on_axis(out, 0, 2) / on_axis(into, 1, 2), "weight * out / in")
    call.require(in_proj_bias, stacked(hidden, n), "bias * out")
    call.require(extra[0], on_axis(k, 2, 3), "it is one more key")
    call.require(extra[1], on_axis(v, 2, 3), "it is one more value")
    out = call.fresh(out_proj[0].shape[:1])
    call.require(out_proj[0], on_axis(out, 0, 2) / on_axis(v, 1, 2), "weight * out / in")
    call.require(out_proj[1], out, "bias * out")
    return [on_axis(out, -1, call.value[0].ndim), IDENTITY]


def stacked(vectors: list[CobMap], n: int) -> CobMap:
    """Vectors of n channels one after another, factor by factor."""
    ones = torch.full((n,), ONE)
    result = IDENTITY
    for i, vector in enumerate(vectors):
        for symbols, exponent in vector.factors:
            row = torch.cat([symbols.expand(n) if j == i else ones for j in range(len(vectors))])
            result = result * single(row) ** exponent
    return result
