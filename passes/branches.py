"""Branches: what a call that is kept whole does inside, as graphs of their own.

A module whose forward reads `self.training` must keep doing so, and a custom autograd function its backward: the
emitted network calls them as they are. What they do to a CoB is read from graphs of their insides, in each mode.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from fxteleport.passes import evaluate, proxy
from fxteleport.passes.decisions import trust_of
from fxteleport.passes.patches import run_by
from fxteleport.passes.traced import shadow

if TYPE_CHECKING:
    from fxteleport.passes.tracer import Tracer


class Applied(nn.Module):
    """A custom autograd function as a leaf."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function.apply(*args)


def trace_inside(
    tracer: Tracer, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], modes: tuple[bool, ...]
) -> tuple[fx.Graph, ...]:
    """The graphs of a call of a module without tensors, for each value of `self.training`.

    Their placeholders are the tensors among the arguments, in order.
    """
    graphs = []
    for training in modes:
        inside = type(tracer)(module, tracer.makes_all, tracer.hashes)
        inside.device, inside.memo, inside.is_inside = tracer.device, tracer.memo, True
        given = evaluate.tree_map(functools.partial(_given, inside), (args, kwargs))
        with run_by(inside):
            out = shadow(inside, module, "", training)(*given[0], **given[1])
        inside.finish(inside.lower(out), out)
        inside.finished = True
        tracer.specialized += inside.specialized
        tracer.asks_rank |= inside.asks_rank
        tracer.asks_type |= inside.asks_type
        graphs.append(inside.graph)
    return tuple(graphs)


def _given(inside: Tracer, x: Any) -> Any:
    """An argument as the graph of the inside has it: a placeholder for a tensor."""
    value, trust = (x._value, trust_of(x)) if proxy.is_proxy(x) else (x, evaluate.Trust.KNOWN)

    def placeholder(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        node = inside.graph.placeholder("given")
        own = evaluate.stand_in(value) if value.is_meta else value.clone()
        node.meta.update(val=own, path="", **({"trust": trust} if trust else {}))
        return proxy.make(node, inside, own)

    return evaluate.tree_map(placeholder, value)
