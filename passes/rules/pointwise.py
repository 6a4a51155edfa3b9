"""Pointwise: any other function of one element (gelu, silu, sigmoid, exp).

The map passes, with the wrapped operation tau f(x / tau) (paper, eq. 2); `mode="weights"` pins it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fxteleport.passes.call import Call, Operand
from fxteleport.passes.maps import IDENTITY, CobMap
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
        " xlogy"
    ),
    nn.GELU, nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.Mish,
    nn.Softplus, nn.LogSigmoid, nn.Threshold,
)  # fmt: skip
def pointwise(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    if any(isinstance(r, Operand) for r in (*rest, *settings.values())):
        call.decline("another tensor shapes this activation")
    return teleported(call, input)
