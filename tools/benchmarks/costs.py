"""Costs: time and memory of planning, applying and rewriting, compared with lower bounds."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

import fxteleport as ft
from fxteleport.models import zoo
from fxteleport.tools.benchmarks.models import empty, real
from fxteleport.tools.benchmarks.timing import Figure, alternate, figure, ratio
from fxteleport.tools.models import load
from fxteleport.tools.models.memory import peak_bytes
from fxteleport.tools.models.request import Request


@dataclass(frozen=True)
class Cost:
    """The costs of one model; a ratio is None where the other side cannot run.

    Attributes:
        nodes: of the captured graph.
        plan_ms: milliseconds of `plan` (capture, constrain, solve) on a meta-device model.
        plan_ratio: plan over symbolic_trace + ShapeProp.
        plan_mb: megabytes by which planning raises the process's peak memory above the imports.
        rewrite_ratio: rewrite over `deepcopy` of the model.
        rewrite_copies: extra peak memory of rewrite, in copies of the model's parameters.
    """

    model: str
    nodes: int
    plan_ms: Figure
    plan_ratio: Figure | None
    plan_mb: float
    rewrite_ratio: Figure | None
    rewrite_copies: float


def cost(spec: str, wanted: Request, repeats: int) -> Cost:
    """Measure one model."""
    skeleton, x = empty(spec, wanted)
    plans, traces = alternate([lambda: ft.plan(skeleton, x), lambda: traced(skeleton, x)], repeats)
    assert plans is not None
    model, inputs = real(spec, wanted)
    weights = ft.plan(model, inputs, mode="weights", norm_stats="rescaled")
    cob = weights.sample(0.5, exact=True, seed=0)
    rewrites, copies = alternate([lambda: weights.rewrite(cob), lambda: copy.deepcopy(model)], repeats)
    return Cost(
        spec,
        len(weights.captured.graph.nodes),
        figure(plans, 1e-3),
        ratio(plans, traces),
        peak_of("plan", spec),
        ratio(rewrites, copies),
        peak_of("rewrite", spec),
    )


def traced(model: nn.Module, x: Tensor) -> None:
    """The baseline of planning: a plain trace with shapes."""
    from torch.fx.passes.shape_prop import ShapeProp

    ShapeProp(fx.symbolic_trace(model)).propagate(x)


def peak_of(what: str, spec: str) -> float:
    """The rise of the peak memory, in a process of its own.

    For "plan" megabytes (the model on meta, every import done before); for "rewrite" copies of the parameters.
    """
    command = [sys.executable, "-m", "fxteleport.tools.benchmarks.costs", what, spec]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _measure_peak(what: str, spec: str) -> float:
    """The child process behind `peak_of`."""
    small = nn.Sequential(nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 3))
    warm = ft.plan(small, torch.zeros(2, 3))
    warm.rewrite(warm.sample(seed=0))
    with torch.device("meta" if what == "plan" else "cpu"):
        built = zoo.build(spec)
    model, (x, *_) = built.model, built.inputs(load.BATCH, "meta")
    if what == "plan":
        return peak_bytes(lambda: ft.plan(model, x))[1] / 1e6
    plan = ft.plan(model, x)
    cob = plan.sample(0.9, "inter", seed=0)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return peak_bytes(lambda: plan.rewrite(cob))[1] / size


if __name__ == "__main__":
    print(_measure_peak(sys.argv[1], sys.argv[2]))
