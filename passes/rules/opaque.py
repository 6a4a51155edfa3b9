"""Operations that are known to pin what enters them: comparisons, orderings, softmax."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from fxteleport.passes.call import Call, Operand
from fxteleport.passes.maps import IDENTITY
from fxteleport.passes.rules import named, rule


@rule(
    *named(
        "softmax log_softmax softmin gumbel_softmax eq ne lt le gt ge argmax argmin topk sort argsort"
        " nonzero multinomial bincount histc searchsorted bucketize cross_entropy nll_loss"
        " logsumexp logical_not logical_and logical_or logical_xor floordiv floor_divide mod fmod remainder"
        " all any isclose"
    ),
    nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Softmin,
)  # fmt: skip
def pinned(call: Call, *args: Any, **settings: Any) -> Any:
    for operand in pytree.tree_leaves((args, settings)):
        if isinstance(operand, Operand):
            call.pin(operand.map, f"'{name_of(call)}' depends on its scale")
    return IDENTITY


@rule(*named("isnan isinf isfinite"))
def invariant(call: Call, input: Operand) -> Any:
    input.seen = True  # and left alone: no scale makes a number of what is none
    return IDENTITY


def name_of(call: Call) -> str:
    """The operation's name in words."""
    if call.module is not None:
        return type(call.module).__name__
    target = call.node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
