"""Pointwise: any other function of one element (gelu, silu, sigmoid, exp), and the gated linear unit.

The map passes, with the wrapped operation tau f(x / tau) (paper, eq. 2); `mode="weights"` pins it. In a * sigmoid(b)
the CoB of a passes, and b's is divided away first.

The wrapped operation sees the original's value but for the sign of a zero: a sum that cancels is +0 whatever the CoB,
so x / tau is -0 where tau is negative. So functions with a two-sided pole at 0 (`rsqrt`, `digamma`) need a positive
CoB. A complex function with a branch cut depends on the sign of a zero part, which multiplication by a real factor
does not keep either (torch multiplies by a complex one): its input is pinned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.domain.cob_map import IDENTITY, ONE, CobMap
from fxteleport.passes.rules import forms, shape_functions
from fxteleport.passes.rules.axes import BY_DIM, FROM_THE_RIGHT
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.operand import Operand
from fxteleport.passes.rules.registry import named, rule

_TWO_SIDED = frozenset(named("rsqrt digamma"))  # -inf on one side of 0, inf on the other
_WITHOUT_CUT = frozenset(named("exp expm1 exp2 sin cos tan sinh cosh tanh sigmoid silu sgn"))


def teleported(call: Call, input: Operand) -> CobMap:
    """The output map of tau f(x / tau)."""
    cob = input.map.settled()
    target = None if call.module is not None else call.node.target
    if input.value.is_complex() and target not in _WITHOUT_CUT:
        call.pin(cob, "the sign of a zero says on which side of a branch cut a complex number is")
        return IDENTITY
    if target in _TWO_SIDED:
        call.positive(cob, "its pole has the sign of the zero, and a sum that cancels is +0 under any CoB")
    if call.full:
        call.wrap(cob, cob)
        return cob
    call.pin(cob, "this activation is not homogeneous")
    return IDENTITY


@rule(
    *named(
        "gelu silu sigmoid hardswish hardsigmoid relu6 elu selu celu mish softplus logsigmoid exp expm1 log log1p"
        " log2 log10 sqrt rsqrt cos cosh sinh erfc logit threshold round floor ceil trunc frac exp2 asin acos"
        " xlogy tan atanh acosh erfinv sinc nan_to_num digamma lgamma gammaln ndtr log_ndtr entr erfcx"
    ),
    nn.GELU, nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.Mish,
    nn.Softplus, nn.LogSigmoid, nn.Threshold,
    shape=shape_functions.same,
    form=forms.function,
    axes=FROM_THE_RIGHT,
)  # fmt: skip
def pointwise(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    if any(isinstance(r, Operand) for r in (*rest, *settings.values())):
        call.decline("another tensor shapes this activation")
    return teleported(call, input)


@rule(*named("glu"), nn.GLU, axes=BY_DIM)
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
