"""Odd: f(-x) = -f(x) (tanh, erf, sin, hardtanh(-a, a)).

A sign passes. A magnitude needs the wrapped operation m f(x / m), so `mode="weights"` requires |tau| = 1.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fxteleport.passes.domain.cob_map import IDENTITY, CobMap
from fxteleport.passes.rules import forms, shape_functions
from fxteleport.passes.rules.axes import FROM_THE_RIGHT
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.operand import Operand, Unknown
from fxteleport.passes.rules.pointwise import teleported
from fxteleport.passes.rules.registry import named, rule


def odd(call: Call, cob: CobMap) -> CobMap:
    """The output map of m f(x / m)."""
    if call.full:
        call.wrap(cob, cob, "magnitude")
    else:
        call.unit(cob, "a CoB other than +-1 would change this operation")
    return cob


@rule(
    *named("tanh erf sin atan asinh softsign tanhshrink hardshrink softshrink sgn sign"),
    nn.Tanh, nn.Softsign, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink,
    shape=shape_functions.same,
    form=forms.function,
    axes=FROM_THE_RIGHT,
)  # fmt: skip
def tanh(call: Call, input: Operand, *rest: Any, **settings: Any) -> CobMap:
    if call.value.is_complex():  # torch's complex functions need not be odd to the last bit
        return teleported(call, input)
    return odd(call, input.map)


@rule(*named("hardtanh"), nn.Hardtanh, shape=shape_functions.same, form=forms.function, axes=FROM_THE_RIGHT)
def hardtanh(call: Call, input: Operand, min_val: float = -1.0, max_val: float = 1.0, inplace: Any = None) -> CobMap:
    return clipped(call, input, min_val, max_val)


@rule(*named("clamp"), shape=shape_functions.broadcast, form=forms.clipped, axes=FROM_THE_RIGHT)
def clamp(call: Call, input: Operand, min: Any = None, max: Any = None) -> CobMap:
    bounds = [bound for bound in (min, max) if isinstance(bound, Operand)]
    if not bounds:
        return clipped(call, input, min, max)
    if call.value.shape != input.shape:
        call.decline("its bounds have more elements than its input")
    for bound in bounds:
        call.require(bound, IDENTITY, "it bounds other values")
    return teleported(call, input)


@rule(*named("clamp_min"), shape=shape_functions.broadcast, form=forms.clipped, axes=FROM_THE_RIGHT)
def clamp_min(call: Call, input: Operand, min: Any) -> CobMap:
    return clamp(call, input, min)  # type: ignore[no-any-return]


@rule(*named("clamp_max"), shape=shape_functions.broadcast, axes=FROM_THE_RIGHT)
def clamp_max(call: Call, input: Operand, max: Any) -> CobMap:
    return clamp(call, input, None, max)  # type: ignore[no-any-return]


def clipped(call: Call, input: Operand, low: float | Unknown | None, high: float | Unknown | None) -> CobMap:
    """Odd where the bounds are symmetric (and in order); else like any pointwise function."""
    if isinstance(low, Unknown) or isinstance(high, Unknown):
        return teleported(call, input)
    if high is not None and high >= 0 and low == -high:
        return odd(call, input.map)
    return teleported(call, input)
