"""Norms: their affine parameters free the output; what enters them is pinned, rescaled or divided away.

Batch norm with running statistics, by `norm_stats`: "fixed" pins its input (the paper's condition 4; exact in
train and eval mode), "rescaled" frees it (running mean * in, gamma * out / in; exact in eval mode; without a gamma,
out is in), "wrapped" divides the input by its CoB at run time (exact in both). A call of `F.batch_norm` with frozen
statistics is rescaled whatever `norm_stats` is: it is exact in both modes. Every other norm computes its
statistics from the input, which is therefore free with the wrapped input x / tau, and pinned in `mode="weights"`. Where
tau is one positive number c, nothing is divided: the norm gets an epsilon of its own, eps * c^2. In `mode="weights"`
with `norms="scaled"` the input may have such a c, and the epsilon stays: the result is approximate then.
Rewritten: gamma * out, beta * out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from fxteleport.passes.domain.cob_map import IDENTITY, CobMap
from fxteleport.passes.rules import shape_functions
from fxteleport.passes.rules.axes import BY_DIM, FROM_THE_RIGHT
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.common_factor import CommonFactor, Epsilon
from fxteleport.passes.rules.operand import Operand
from fxteleport.passes.rules.registry import named, rule
from fxteleport.passes.rules.weighted import channel, on_axis


def unscaled(call: Call, input: Operand, shared: Sequence[int] = (), common: CommonFactor | None = None) -> None:
    """The operation must see the original values: divide the CoB away, or pin it.

    Along the axes `shared` the CoB is required to be constant. `common` says what a factor of the whole input changes.
    """
    if call.full:
        cob = call.constant(input.map, shared, "these positions are normalised together")
        call.wrap(cob, None, common=common)
    elif call.norms == "scaled" and common is not None:
        call.approximate(input.map, common)
    else:
        call.pin(input.map, "this norm's statistics are computed from it")


# name of a function -> the index of its eps among the positional arguments, and its default
_EPS: dict[str, tuple[int, float | None]] = {
    "layer_norm": (4, 1e-5), "group_norm": (4, 1e-5), "instance_norm": (7, 1e-5), "batch_norm": (7, 1e-5),
    "rms_norm": (3, None), "normalize": (3, 1e-12),
}  # fmt: skip


def in_epsilon(call: Call, power: int = 2) -> CommonFactor | None:
    """The common factor of a norm whose eps takes c ** power; None where eps is no plain number."""
    node = call.node
    if call.module is not None:
        is_number = isinstance(getattr(call.module, "eps", None), float)
        return CommonFactor((Epsilon(node.name, "eps", power),)) if is_number else None
    if call.name not in _EPS:
        return None
    at, default = _EPS[call.name]
    argument: int | str = at if at < len(node.args) else "eps"
    value = node.args[at] if argument == at else node.kwargs.get("eps", default)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return CommonFactor((Epsilon(node.name, argument, power, default),)) if is_number else None


def affine(call: Call, weight: Operand | None, bias: Operand | None) -> CobMap:
    """The CoB that the affine parameters give the output, in the weight's shape."""
    if weight is None:
        call.require(bias, IDENTITY, "a bias without a weight beside it")
        return IDENTITY
    out = weight.map
    call.require(bias, out, "bias * out")
    return out


@rule(F.batch_norm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, shape=shape_functions.same)
def batch_norm(
    call: Call, input: Operand, running_mean: Operand | None, running_var: Operand | None,
    weight: Operand | None = None, bias: Operand | None = None, training: bool = False, *rest: Any, **settings: Any,
) -> CobMap:  # fmt: skip
    tracked, rank = running_mean is not None and not training, input.rank
    call.require(running_var, IDENTITY, "a running variance stays")
    frozen = call.module is None  # in this graph; train mode, where it differs, has a graph of its own
    if tracked and (frozen or call.norm_stats == "rescaled"):
        if not frozen:
            call.rest_on("mode", "rescaled norm statistics are exact in eval mode only", everywhere=True)
        into = call.filled(channel(call, input, 1), "a mean is taken from it")
        call.require(running_mean, into, "running mean * in")
        if weight is None:  # nothing divides `in` away again
            call.require(bias, into, "bias * in")
            return on_axis(into, 1, rank)
        out = call.fresh(weight.shape)
        call.require(weight, out / into, "gamma * out / in")
        call.require(bias, out, "bias * out")
        return on_axis(out, 1, rank)
    call.require(running_mean, IDENTITY, "a running mean stays")
    if not tracked and call.module is None:
        # Statistics of the given values: mostly a weight that is standardised by output channel. With one CoB a
        # channel the divisor has one value a channel.
        common = in_epsilon(call) if running_mean is None else None
        unscaled(call, input, [axis for axis in range(rank) if axis != 1], common)
    elif call.norm_stats == "wrapped":
        unscaled(call, input)
    else:
        call.pin(input.map, "batch norm's running statistics are fixed (norm_stats='rescaled' frees it)")
    return on_axis(affine(call, weight, bias), 1, rank)


@rule(*named("layer_norm rms_norm"), nn.LayerNorm, nn.RMSNorm, shape=shape_functions.same, axes=FROM_THE_RIGHT)
def layer_norm(
    call: Call, input: Operand, normalized_shape: Any, weight: Operand | None = None, bias: Operand | None = None,
    *rest: Any, **settings: Any,
) -> CobMap:  # fmt: skip
    unscaled(call, input, common=in_epsilon(call))
    return affine(call, weight, bias).aligned(input.rank)


@rule(*named("group_norm"), nn.GroupNorm, shape=shape_functions.same)
def group_norm(
    call: Call, input: Operand, num_groups: int, weight: Operand | None = None, bias: Operand | None = None,
    *rest: Any, **settings: Any,
) -> CobMap:  # fmt: skip
    unscaled(call, input, common=in_epsilon(call))
    return on_axis(affine(call, weight, bias), 1, input.rank)


@rule(F.instance_norm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, shape=shape_functions.same)
def instance_norm(
    call: Call, input: Operand, running_mean: Operand | None = None, running_var: Operand | None = None,
    weight: Operand | None = None, bias: Operand | None = None, *rest: Any, **settings: Any,
) -> CobMap:  # fmt: skip
    unscaled(call, input, common=in_epsilon(call) if running_mean is None else None)
    alone = isinstance(call.module, _InstanceNorm) and input.rank == call.module._get_no_batch_dim()
    return on_axis(affine(call, weight, bias), 0 if alone else 1, input.rank)


@rule(F.normalize, shape=shape_functions.same, axes=BY_DIM)
def normalize(
    call: Call, input: Operand, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Operand | None = None
) -> CobMap:
    """Weights alone (a step of spectral norm), which no input brings near `eps`, may have a positive CoB."""
    call.require(out, IDENTITY, "what is written there is normalised")
    if call.full or not isinstance(dim, int) or not _is_of_weights(call.node):
        # Other roots than the square root round differently, and in float16 the norm might leave the range.
        exact = p in (1, 2, math.inf) and input.value.dtype is not torch.float16
        unscaled(call, input, common=in_epsilon(call, 1) if exact and out is None else None)
    else:
        call.positive(call.constant(input.map, [dim % input.rank], "these are normalised together"), "its sign stays")
    return IDENTITY


def _is_of_weights(node: fx.Node) -> bool:
    """True for what is computed from parameters and buffers alone."""
    waiting, seen = [node], {node}
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source.op == "placeholder":
                return False
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return True


@rule(F.local_response_norm, nn.LocalResponseNorm, shape=shape_functions.same)
def local_response_norm(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    unscaled(call, input)
    return IDENTITY


@rule(*named("_weight_norm"))
def weight_norm(call: Call, v: Operand, g: Operand, dim: int = 0) -> CobMap:
    """g v / |v|: v is normalised, so it keeps its CoB 1; g takes the CoB."""
    call.require(v, IDENTITY, "its length is divided away, and computed over several neurons")
    return g.map
