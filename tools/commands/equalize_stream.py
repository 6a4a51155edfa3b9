"""`equalize --stream`: a checkpoint equalised from disk to disk, for models larger than memory.

The statistics of its tensors are read once, a tensor at a time; then it is scaled as `teleport --stream` scales.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fxteleport.io.checkpoint_tensors import checkpoint_tensors
from fxteleport.ranges.equalize import equalized
from fxteleport.tools.checking.conditions import resting
from fxteleport.tools.commands.stream import planned, scaled
from fxteleport.tools.console import Output, count, named_rows, write_json
from fxteleport.tools.models.request import Request
from fxteleport.tools.options.common import Settings
from fxteleport.tools.options.equalize import Equalizing


def streamed(
    out: Output, spec: str, how: Equalizing, settings: Settings, wanted: Request, output: Path | None, json: str | None
) -> None:
    """Plan a network without its weights, equalise its checkpoint, and scale it.

    Raises:
        InputError: no checkpoint or no output is given, or the method needs the weights in memory.
        NothingFree: nothing can be chosen.
        CheckpointError: the checkpoint does not fit the network, or something cannot be written.
    """
    disk = planned(spec, settings, wanted, output)
    plan = disk.plan
    start = time.perf_counter()
    with out.progress(1, estimate=False) as step:
        step("reading the checkpoint")
        given = checkpoint_tensors(plan, disk.source)
        equalised = equalized(plan, weights=given, progress=lambda what: step(what), **how.settings())
    chosen = time.perf_counter()
    files = scaled(out, plan, equalised.cob, disk.source, disk.target)
    values = equalised.cob.values
    facts: dict[str, Any] = {
        "model": wanted.named(spec),
        "mode": plan.mode,
        "norms": plan.norms,
        **how.settings(),
        "num_free": plan.num_free,
        "objective": {"before": equalised.before, "after": equalised.after},
        "share": equalised.share,
        "noise": {"before": equalised.noise_before, "after": equalised.noise_after},
        "cob": {"smallest": float(values.min()), "largest": float(values.max())},
        **disk.facts(),
        "seconds": plan.seconds | {"equalize": chosen - start, "stream": time.perf_counter() - chosen},
        "files": [str(f) for f in files],
    }
    _show(out, facts, plan.conditions)
    write_json(json, facts)


def _show(out: Output, facts: dict[str, Any], conditions: Any) -> None:
    seconds, noise, cob = facts["seconds"], facts["noise"], facts["cob"]
    size = f"{count(facts['tensors'], 'tensor')}, {facts['bytes'] / 1e9:.2f} GB"
    rows = [
        ("model", f"{facts['model']}, {count(facts['parameters'], 'parameter')}"),
        ("freedom", f"{count(facts['num_free'], 'CoB value')}, {cob['smallest']:.4g} to {cob['largest']:.4g} now"),
        ("format", f"{facts['bits']} bits, a scale for each {'channel' if facts['per_channel'] else 'tensor'}"),
        ("method", f"{facts['method']}, in {seconds['equalize']:.1f} s"),
        ("noise", f"{noise['before']:.3g} to signal, modelled; {noise['after']:.3g} now"),
        ("checkpoint", f"{size}, scaled in {seconds['stream']:.1f} s"),
        *resting(conditions),
        ("compared", "nothing: the weights were never in memory together"),
        *(("written" if i == 0 else "", path) for i, path in enumerate(facts["files"])),
    ]
    out.print(named_rows(rows))
