"""Peers: the time of planning, compared with other tools that find which channels of a network are coupled.

| peer | what it does |
|---|---|
| torch.fx | `symbolic_trace` + `ShapeProp`: the least that any such tool does; it finds nothing |
| Brevitas | `EqualizeGraph`: traces, finds regions and scales them |
| Torch-Pruning | `DependencyGraph.build_dependency` and `get_all_groups` |

Each is optional: a peer that is not installed, or that fails on a model, or finds nothing in it, leaves `-`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

import fxteleport as ft
from fxteleport.tools.benchmarks.costs import traced
from fxteleport.tools.benchmarks.models import real
from fxteleport.tools.benchmarks.timing import Figure, alternate, figure, quiet, ratio
from fxteleport.tools.models.request import Request

Peer = Callable[[nn.Module, Tensor], int]


@dataclass(frozen=True)
class Peers:
    """The time of a plan divided by that of each peer (below 1: the plan is faster), and the peers' results.

    Attributes:
        scaled_over_brevitas: plan, sample and `apply_`: Brevitas scales the weights, too.
    """

    model: str
    nodes: int
    plan_ms: Figure
    over_fx: Figure | None
    over_brevitas: Figure | None
    scaled_over_brevitas: Figure | None
    brevitas_regions: int | None
    over_torch_pruning: Figure | None
    torch_pruning_groups: int | None


def peers(spec: str, wanted: Request, repeats: int) -> Peers:
    """Measure one model: the same, with weights, for all."""
    model, x = real(spec, wanted)
    fresh = [iter([copy.deepcopy(model) for _ in range(repeats + 2)]) for _ in range(2)]  # these two scale weights
    equalise, regions = found(brevitas, fresh[0], x)
    depend, groups = found(torch_pruning, iter([model] * (repeats + 2)), x)

    def applied() -> None:
        other = next(fresh[1])
        plan = ft.plan(other, x, mode="weights")
        plan.apply_(plan.sample(0.5, seed=0))

    runs = [lambda: ft.plan(model, x), lambda: traced(model, x), applied, equalise, depend]
    ours, fx, scaled, equalised, depended = alternate(runs, repeats)
    assert ours is not None
    return Peers(
        spec,
        len(ft.plan(model, x).captured.graph.nodes),
        figure(ours, 1e-3),
        ratio(ours, fx),
        ratio(ours, equalised),
        ratio(scaled, equalised),
        regions,
        ratio(ours, depended),
        groups,
    )


def found(peer: Peer, fresh: Iterator[nn.Module], x: Tensor) -> tuple[Callable[[], int] | None, int | None]:
    """A run of a peer, and how much it finds; None for a peer that is missing, fails, or finds nothing."""
    try:
        with quiet():
            number = peer(next(fresh), x)
    except Exception:  # whatever another library raises
        return None, None
    return (lambda: peer(next(fresh), x)) if number else None, number or None


def brevitas(model: nn.Module, x: Tensor) -> int:
    """Trace and equalise; the number of regions."""
    from brevitas.fx import symbolic_trace
    from brevitas.graph.equalize import EqualizeGraph

    _, regions = EqualizeGraph(return_regions=True).apply(symbolic_trace(model))
    return len(regions)


def torch_pruning(model: nn.Module, x: Tensor) -> int:
    """Build the dependency graph and list its groups; their number."""
    import torch_pruning as pruning

    graph = pruning.DependencyGraph().build_dependency(model, example_inputs=x)
    return len(list(graph.get_all_groups()))
