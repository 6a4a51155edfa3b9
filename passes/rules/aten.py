"""The rules of ATen operators that return more than torch's functions.

Decomposed graphs call what `F.layer_norm` calls. Beside the value it returns what only a derivative reads: the
statistics of a norm, the sums of an attention. Each has the constraint of its function. The other results have the CoB
1: they are computed from a norm's input with its CoB divided away (or pinned), or from the logits of an attention.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from fxteleport.passes.domain.cob_map import IDENTITY, CobMap
from fxteleport.passes.rules import bilinear, equivariant, norm, pinning
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.operand import Operand
from fxteleport.passes.rules.registry import rule


def beside(call: Call, cob: CobMap) -> list[CobMap]:
    """The map of the first result, and 1 for the others."""
    return [cob] + [IDENTITY] * (len(call.value) - 1)


# -- norms -------------------------------------------------------------------------------------------------------------


@rule(torch.native_layer_norm)
def native_layer_norm(
    call: Call, input: Operand, normalized_shape: Any, weight: Operand | None, bias: Operand | None, eps: float
) -> list[CobMap]:
    return beside(call, norm.layer_norm(call, input, normalized_shape, weight, bias))


@rule(torch._fused_rms_norm)
def fused_rms_norm(
    call: Call, input: Operand, normalized_shape: Any, weight: Operand | None, eps: float | None
) -> list[CobMap]:
    return beside(call, norm.layer_norm(call, input, normalized_shape, weight))


@rule(torch.native_group_norm)
def native_group_norm(
    call: Call, input: Operand, weight: Operand | None, bias: Operand | None, N: Any, C: Any, HxW: Any,  # noqa: N803
    group: int, eps: float,
) -> list[CobMap]:  # fmt: skip
    return beside(call, norm.group_norm(call, input, group, weight, bias))


@rule(torch._native_batch_norm_legit_no_training)
def native_batch_norm_in_eval_mode(
    call: Call, input: Operand, weight: Operand | None, bias: Operand | None, running_mean: Operand,
    running_var: Operand, momentum: float, eps: float,
) -> list[CobMap]:  # fmt: skip
    return beside(call, norm.batch_norm(call, input, running_mean, running_var, weight, bias))


@rule(torch.native_batch_norm, torch._native_batch_norm_legit)
def native_batch_norm(
    call: Call, input: Operand, weight: Operand | None, bias: Operand | None, running_mean: Any, running_var: Any,
    training: Any, momentum: Any = None, eps: Any = None,
) -> list[CobMap]:  # fmt: skip
    if isinstance(running_mean, bool):  # without running statistics: training, momentum, eps
        return beside(call, norm.batch_norm(call, input, None, None, weight, bias, running_mean))
    return beside(call, norm.batch_norm(call, input, running_mean, running_var, weight, bias, training))


# -- attention ---------------------------------------------------------------------------------------------------------


def attended(call: Call, query: Operand, key: Operand, value: Operand, mask: Any, gqa: bool = False) -> list[CobMap]:
    of_value = dataclasses.replace(call, value=call.value[0])
    return beside(call, bilinear.attention(of_value, query, key, value, mask, enable_gqa=gqa))


@rule(torch._scaled_dot_product_flash_attention, torch._scaled_dot_product_flash_attention_for_cpu)
def flash_attention(
    call: Call, query: Operand, key: Operand, value: Operand, dropout_p: float = 0.0, is_causal: bool = False,
    return_debug_mask: bool = False, attn_mask: Operand | None = None, scale: float | None = None,
) -> list[CobMap]:  # fmt: skip
    return attended(call, query, key, value, attn_mask)


@rule(torch._scaled_dot_product_efficient_attention, torch._scaled_dot_product_cudnn_attention)
def efficient_attention(
    call: Call, query: Operand, key: Operand, value: Operand, attn_bias: Operand | None, *rest: Any, **settings: Any
) -> list[CobMap]:
    return attended(call, query, key, value, attn_bias)


@rule(torch._scaled_dot_product_attention_math)
def attention_written_out(
    call: Call, query: Operand, key: Operand, value: Operand, attn_mask: Operand | None = None, *rest: Any,
    enable_gqa: bool = False, **settings: Any,
) -> list[CobMap]:  # fmt: skip
    return attended(call, query, key, value, attn_mask, enable_gqa)


# -- what torch calls under another name, to another rounding ----------------------------------------------------------

rule(torch._adaptive_avg_pool2d)(equivariant.average_pool2d)
rule(torch._adaptive_avg_pool3d)(equivariant.average_pool3d)
rule(torch._safe_softmax)(pinning.pinned)
