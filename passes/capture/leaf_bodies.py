"""Branches: what a call that is kept whole does inside, as graphs of their own.

A module whose forward reads `self.training` must keep doing so, and a custom autograd function its backward: the
emitted network calls them as they are. What they do to a CoB is read from graphs of their insides, in each mode.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from fxteleport.passes.capture import meta_eval, proxy
from fxteleport.passes.capture.patching import run_by
from fxteleport.passes.capture.specialization import trust_of
from fxteleport.passes.capture.traced_modules import Table, reassigned, shadow
from fxteleport.passes.graph.guards import GUARDS, insist
from fxteleport.passes.graph.node_info import NodeInfo, Trust, describe, info
from fxteleport.passes.graph.ops import leaves_of

if TYPE_CHECKING:
    from fxteleport.passes.capture.tracer import Tracer


class Stores(Exception):
    """A call that is kept whole would store something where the trace does not see it."""


def trace_inside(
    tracer: Tracer, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], modes: tuple[bool, ...]
) -> list[fx.Graph]:
    """The graphs of a call of a module, for each value of `self.training`.

    Their placeholders are the tensors among the arguments, in order.

    Raises:
        Stores: it writes to its attributes.
    """
    graphs = []
    for training in modes:
        inside = type(tracer)(module, tracer.makes_all, tracer.hashes, training)
        inside.device, inside.memo, inside.is_inside = tracer.device, tracer.memo, True
        inputs = meta_eval.tree_map(functools.partial(given, inside), (args, kwargs))
        made = shadow(inside, module, "", training)
        if isinstance(made, nn.modules.batchnorm._BatchNorm):
            made._buffers["num_batches_tracked"] = None  # its counting is part of the layer's own
        held = [pair for pair in meta_eval.containers((made.__dict__,)) if type(pair[0]) is not Table]
        with run_by(inside):
            out = made(*inputs[0], **inputs[1])
        if reassigned(made) or any(meta_eval.changed(*pair) for pair in held):
            raise Stores(f"the forward of a {type(module).__name__} stores what others may read")
        inside.finish(inside.lower(out), out)
        inside.end()
        if any(node.target in GUARDS and node.target is not insist for node in inside.graph.nodes):
            raise RuntimeError("sizes decide what it does, and other inputs may have others")
        tracer.conditions |= dict.fromkeys(inside.conditions)
        tracer.asks_rank |= inside.asks_rank
        if tracer.rank_line is None and inside.rank_line is not None:
            tracer.rank_line, tracer.rank_node = inside.rank_line, next(iter(reversed(tracer.graph.nodes)), None)
        tracer.asks_type |= inside.asks_type
        graphs.append(inside.graph)
    return graphs


def value_of(graph: fx.Graph) -> tuple[Any, Trust]:
    """What comes out of the inside of a call, and what it is worth."""
    out = graph.output_node()
    trusts = [info(node).trust for node in out.all_input_nodes]
    return info(out).value, max(trusts, default=Trust.KNOWN)


def given(inside: Tracer, x: Any) -> Any:
    """An argument as the graph of the inside has it: a placeholder for a tensor, and for a number of the run's."""
    if not proxy.is_proxy(x):
        return placeholder(inside, x, x) if isinstance(x, Tensor) else x
    if not any(isinstance(value, Tensor) for value in leaves_of(x._value)):
        return placeholder(inside, x, x._value)
    return meta_eval.tree_map(
        lambda value: placeholder(inside, x, value) if isinstance(value, Tensor) else value, x._value
    )


def placeholder(inside: Tracer, x: Any, value: Any) -> Any:
    """A placeholder for `x`, or for a part of it."""
    node = inside.graph.placeholder("given")
    if isinstance(value, Tensor):
        value = meta_eval.stand_in(value) if value.is_meta else value.clone()
    describe(node, NodeInfo(value, trust_of(x) if proxy.is_proxy(x) else Trust.KNOWN))
    return inside.handle(node, value)
