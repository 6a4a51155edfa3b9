"""Caches of a plan: inputs that hold tensors with a change of basis, and the parts of outputs that become such inputs.

A network of such a plan (`cached="teleported"`) takes what it gives. A cache of the original is teleported first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from fxteleport.passes.graph.places import with_tensors
from fxteleport.passes.rewrite.other_graphs import takes
from fxteleport.plan.analysis import Analysis
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.factors import tau


def teleport_inputs(
    plan: Analysis, cob: ChangeOfBasis, /, *inputs: Any, **keyword_inputs: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs of a call, with the caches among them (`cached="teleported"`) multiplied by their change of basis.

    What holds them is copied. Without such caches the inputs are returned as they are.

    Raises:
        CobError: the CoB is not valid for this plan.
    """
    if not plan.constrained.caches.maps:
        return inputs, keyword_inputs
    factors = _factors(plan, cob)
    names = [str(n.target) for n in _graph_of(plan, inputs, keyword_inputs).nodes if n.op == "placeholder"]

    def teleported(name: str, x: Any) -> Any:
        if name not in {key for key, _ in factors}:
            return x
        return with_tensors(x, lambda place, tensor: _times(tensor, factors.get((name, place))))

    args = tuple(teleported(name, x) for name, x in zip(names, inputs, strict=False))
    return args, {name: teleported(name, x) for name, x in keyword_inputs.items()}


def restored_outputs(
    plan: Analysis,
    cob: ChangeOfBasis,
    inputs: tuple[Any, ...],
    keyword_inputs: dict[str, Any],
    found: Mapping[str, Any],
) -> dict[str, Any]:
    """What a call of an emitted network gives, by its place, with the caches as those of the original."""
    caches = plan.constrained.caches
    if not caches.maps:
        return dict(found)
    keys = {f"output{place}": key for place, key in caches.outputs[_graph_of(plan, inputs, keyword_inputs)].items()}
    inverse = {key: None if factor is None else 1 / factor for key, factor in _factors(plan, cob).items()}
    return {place: _times(x, inverse.get(keys[place])) if place in keys else x for place, x in found.items()}


def _factors(plan: Analysis, cob: ChangeOfBasis) -> dict[tuple[str, str], Tensor | None]:
    symbols = tau(plan, cob).detach()
    return {key: held.scale(symbols) for key, held in plan.constrained.caches.maps.items()}


def _graph_of(plan: Analysis, inputs: tuple[Any, ...], keyword_inputs: dict[str, Any]) -> fx.Graph:
    graphs = plan.captured.calls
    return next((graph for graph in graphs if takes(graph, inputs, keyword_inputs)), graphs[0])


def _times(tensor: Tensor, factor: Tensor | None) -> Tensor:
    if factor is None:
        return tensor
    real = tensor.dtype.to_real() if tensor.is_complex() else tensor.dtype
    return tensor * factor.to(device=tensor.device, dtype=real)
