"""`fxteleport bench`: what planning, applying, rewriting and running cost, as ratios measured in one run.

| figure | against |
|---|---|
| plan | `torch.fx.symbolic_trace` + `ShapeProp` of the same meta-device model |
| apply_ | one in-place multiplication of the same parameters: the memory bandwidth |
| rewrite | the bytes of the parameters (extra peak memory), and the time of `deepcopy` |
| forward | the captured graph of the original, with and without teleported activations |

Every ratio is the median of alternating repetitions.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import io
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
import typer
from torch import fx, nn

import fxteleport as ft
from fxteleport import zoo
from fxteleport.passes.rewrite import original
from fxteleport.tools import models, options
from fxteleport.tools.console import progress, write_json
from fxteleport.tools.memory import peak_bytes


@dataclasses.dataclass(frozen=True)
class BenchRecord:
    """The figures of one model; a ratio is None where the other side cannot run.

    Attributes:
        nodes: of the captured graph.
        plan_ms: milliseconds of `plan` (capture, constrain, solve) on a meta-device model.
        plan_ratio: plan over symbolic_trace + ShapeProp.
        plan_mb: megabytes by which planning raises the process's peak memory above the imports.
        apply_ratio: apply_ over one in-place multiplication of the same parameters.
        rewrite_ratio: rewrite over `deepcopy` of the model.
        rewrite_copies: extra peak memory of rewrite, in copies of the model's parameters.
        forward_ratio: emitted network without teleported modules over the captured original.
        teleported_ratio: emitted network with signs and teleported activations over the captured original.
    """

    model: str
    nodes: int
    plan_ms: float
    plan_ratio: float | None
    plan_mb: float
    apply_ratio: float
    rewrite_ratio: float
    rewrite_copies: float
    forward_ratio: float
    teleported_ratio: float


def measure(spec: str, wanted: models.Request, repeats: int = 7) -> BenchRecord:
    """Measure one model (a timm or torchvision name)."""
    with torch.device("meta"):
        built = zoo.build(spec, wanted.input_size)
        skeleton, (x, *_) = built.model, built.inputs(models.BATCH)
    plan_time, trace_time = alternate([lambda: ft.plan(skeleton, x), lambda: traced(skeleton, x)], repeats)
    plan = ft.plan(skeleton, x)

    loaded = models.load(spec, wanted)
    model, real = loaded.model, loaded.args[0]
    weights = ft.plan(model, real, mode="weights", norm_stats="rescaled")
    cob = weights.sample(0.5, exact=True, seed=0)
    undo = cob.inverse()
    parameters = [p.data for p in dict.fromkeys(model.parameters())]

    def apply() -> None:
        weights.apply_(cob)
        weights.apply_(undo)

    def multiply() -> None:
        for factor in (2.0, 0.5):
            for p in parameters:
                p.mul_(factor)

    apply_time, multiply_time = alternate([apply, multiply], repeats)
    rewrite_time, copy_time = alternate([lambda: weights.rewrite(cob), lambda: copy.deepcopy(model)], repeats)
    full = ft.plan(model, real)
    bare = ft.plan(model, real, mode="weights", norm_stats="rescaled")
    networks: list[nn.Module] = [
        original(full.captured).eval(),
        bare.rewrite(bare.sample(0.5, seed=0)).eval(),
        full.rewrite(full.sample(0.9, "inter", seed=0)).eval(),
    ]
    with torch.no_grad():
        forward = alternate([functools.partial(net, real) for net in networks], repeats)
    return BenchRecord(
        spec,
        len(plan.captured.graph.nodes),
        plan_time * 1e3,
        None if trace_time is None else plan_time / trace_time,
        peak_of("plan", spec),
        apply_time / multiply_time,
        rewrite_time / copy_time,
        peak_of("rewrite", spec),
        forward[1] / forward[0],
        forward[2] / forward[0],
    )


def traced(model: nn.Module, x: torch.Tensor) -> None:
    """What planning is held against: a plain trace with shapes."""
    from torch.fx.passes.shape_prop import ShapeProp

    ShapeProp(fx.symbolic_trace(model)).propagate(x)


def alternate(runs: Sequence[Callable[[], Any]], repeats: int) -> list[Any]:
    """Median seconds of each run, taken in turn so that a busy machine slows all alike; None for one that fails."""
    times: list[list[float] | None] = [[] for _ in runs]
    for turn in range(repeats + 1):
        for i, run in enumerate(runs):
            kept = times[i]
            if kept is None:
                continue
            start = time.perf_counter()
            try:
                # ShapeProp prints its errors
                with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                    warnings.simplefilter("ignore")
                    run()
            except Exception:
                times[i] = None
                continue
            if turn:  # the first round warms up
                kept.append(time.perf_counter() - start)
    return [None if t is None else statistics.median(t) for t in times]


def peak_of(what: str, spec: str) -> float:
    """Peak memory above what was there before, in a process of its own.

    For "plan" megabytes (the model on meta, every import done before); for "rewrite" copies of the parameters.
    """
    command = [sys.executable, "-m", "fxteleport.tools.bench", what, spec]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _measure_peak(what: str, spec: str) -> float:
    """The child process behind `peak_of`."""
    small = nn.Sequential(nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 3))
    warm = ft.plan(small, torch.zeros(2, 3))
    warm.rewrite(warm.sample(seed=0))
    with torch.device("meta" if what == "plan" else "cpu"):
        built = zoo.build(spec)
    model, (x, *_) = built.model, built.inputs(models.BATCH, "meta")
    if what == "plan":
        return peak_bytes(lambda: ft.plan(model, x))[1] / 1e6
    plan = ft.plan(model, x)
    cob = plan.sample(0.9, "inter", seed=0)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return peak_bytes(lambda: plan.rewrite(cob))[1] / size


def table(records: Sequence[BenchRecord]) -> str:
    """The records as a Markdown table."""
    names = [f.name for f in dataclasses.fields(BenchRecord)]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for found in records:
        values = dataclasses.asdict(found).values()
        cells = [f"{v:.2f}" if isinstance(v, float) else "-" if v is None else str(v) for v in values]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bench(
    model: options.Models,
    repeats: Annotated[int, typer.Option("--repeats", help="Repetitions of each measurement.")] = 7,
    json: options.Json = None,
    seed: options.Seed = 0,
) -> None:
    """Measure plan, apply_, rewrite and forward, as ratios in one run.

    Example: fxteleport bench resnet18 vit_tiny_patch16_224
    """
    wanted = options.request(seed=seed)
    for spec in model:
        models.check_spec(spec, wanted)
    records = []
    with progress(len(model)) as step:
        for spec in model:
            step(spec)
            records.append(measure(spec, wanted, repeats))
            step(spec, 1)
    if json != "-":
        typer.echo(table(records))
    write_json(json, [dataclasses.asdict(r) for r in records])


if __name__ == "__main__":
    print(_measure_peak(sys.argv[1], sys.argv[2]))
