"""Parameters and constants.

A parameter that the graph reads (`get_attr`: a position embedding, a class token, a layer scale, a bias table)
has a map of its own; the interpreter makes it at its first use. So has a buffer of the state dict, unless it only
shapes a weight (`constrain/dependence.py`); any other buffer is a constant. Created tensors (`ones`, `arange`) are
constants with the CoB 1, or structural zeros.
"""

from __future__ import annotations

from typing import Any

from fxteleport.passes.domain.cob_map import IDENTITY, CobMap, structural_zeros
from fxteleport.passes.rules import shape_functions
from fxteleport.passes.rules.axes import FROM_THE_RIGHT
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.equivariant import elementwise
from fxteleport.passes.rules.operand import Operand, carries
from fxteleport.passes.rules.registry import named, rule


@rule(
    *named("zeros zeros_like new_zeros empty empty_like new_empty zero new_empty_strided"), shape=shape_functions.made
)
def zeros(call: Call, *rest: Any, **settings: Any) -> CobMap:
    call.shape_only(*rest, *settings.values())
    return structural_zeros(call.value.ndim) if carries(call.value) else IDENTITY


@rule(
    *named("full rand randn randint randperm linspace logspace eye scalar_tensor"),
    *named("tril_indices triu_indices hann_window hamming_window"),
)
def constant(call: Call, *rest: Any, **settings: Any) -> CobMap:
    return IDENTITY


@rule(*named("tensor as_tensor asarray"))
def converted(call: Call, data: Any, *rest: Any, **settings: Any) -> CobMap:
    """A given tensor passes, also into another number format; numbers become a constant."""
    return elementwise(call, data, *rest, **settings) if isinstance(data, Operand) else IDENTITY  # type: ignore[no-any-return]


@rule(*named("arange"), shape=shape_functions.ranged)
@rule(*named("ones"), shape=shape_functions.made)
def constant_of_size(call: Call, *rest: Any, **settings: Any) -> CobMap:
    return IDENTITY


@rule(
    *named("ones_like new_ones full_like new_full rand_like randn_like randint_like"),
    *("bernoulli_", "uniform_", "normal_", "exponential_", "random_"),
    shape=shape_functions.made,
    axes=FROM_THE_RIGHT,
)
def constant_like(call: Call, input: Any, *rest: Any, **settings: Any) -> CobMap:
    call.shape_only(input)
    return IDENTITY


@rule(*named("fill"), shape=shape_functions.same, axes=FROM_THE_RIGHT)
def fill(call: Call, input: Any, value: Any) -> CobMap:
    call.shape_only(input)
    if isinstance(value, Operand):
        call.pin(value.map, "it fills a tensor")
    return IDENTITY
