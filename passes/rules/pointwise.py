"""Pointwise: any other function of one element (gelu, silu, sigmoid, exp), and the gated linear unit.

The map passes, with the wrapped operation tau f(x / tau) (paper, eq. 2); `mode="weights"` pins it. In a * sigmoid(b)
the CoB of a passes as it is, and b's is divided away before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes import shape_functions
from fxteleport.passes.call import Call, Operand
from fxteleport.passes.maps import IDENTITY, ONE, CobMap
from fxteleport.passes.rules import named, rule


def teleported(call: Call, input: Operand) -> CobMap:
    """The output map of tau f(x / tau)."""
    cob = input.map.settled()
    if call.full:
        call.wrap(cob, cob)
        return cob
    call.pin(cob, "this activation is not homogeneous")
    return IDENTITY


@rule(
    *named(
        "gelu silu sigmoid hardswish hardsigmoid relu6 elu selu celu mish softplus logsigmoid exp expm1 log log1p"
        " log2 log10 sqrt rsqrt cos cosh sinh erfc expit logit threshold round floor ceil trunc frac exp2 asin acos"
        " xlogy tan atanh arctanh acosh arccosh erfinv sinc nan_to_num digamma lgamma ndtr log_ndtr entr erfcx"
    ),
    nn.GELU, nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.Mish,
    nn.Softplus, nn.LogSigmoid, nn.Threshold,
    shape=shape_functions.same,
)  # fmt: skip
def pointwise(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    if any(isinstance(r, Operand) for r in (*rest, *settings.values())):
        call.decline("another tensor shapes this activation")
    return teleported(call, input)


@rule(*named("glu"), nn.GLU)
def gated(call: Call, input: Operand, dim: int = -1) -> CobMap:
    cob = input.map
    axis = dim % input.rank

    def halves(s: Tensor) -> tuple[Tensor, Tensor]:
        return s.chunk(2, axis) if s.size(axis) > 1 else (s, s)  # type: ignore[return-value]

    def gate_only(s: Tensor) -> Tensor:
        half = halves(s)[1]
        half = half.expand(*half.shape[:axis], input.shape[axis] // 2, *half.shape[axis + 1 :])
        return torch.cat([torch.full_like(half, ONE), half], axis)

    gate = cob.each(lambda s: halves(s)[1])
    if call.full:
        call.wrap(cob.each(gate_only), None)
    else:
        call.pin(gate, "this activation is not homogeneous")
    return cob.each(lambda s: halves(s)[0])
