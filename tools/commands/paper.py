"""`fxteleport paper`: the paper's experiments, each with numbers, a verdict as measured, and the figure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fxteleport.tools.console import console, write_json
from fxteleport.tools.options import common
from fxteleport.tools.options import paper as own


def paper(
    experiment: own.Name,
    *,
    what: own.What,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Default: paper-results/EXPERIMENT.")
    ] = None,
    schedule: own.Schedule,
    json: common.Json = None,
    seed: common.Seed = 0,
) -> None:
    """Reproduce an experiment of the paper; interrupted, it goes on where it was.

    Example: fxteleport paper gradients --preset smoke --output results
    """
    out = console(json)
    common.one_of("EXPERIMENT", experiment, (*own.EXPERIMENTS, own.ALL))
    common.check_seed(seed)

    with out.starting():
        from fxteleport.tools.experiments.experiment import Options
        from fxteleport.tools.experiments.registry import variants
        from fxteleport.tools.experiments.reproduce import Means, check, reproduce, show

    asked = Options.of(what, seed)
    check(asked)
    means = Means(schedule.jobs or os.cpu_count() or 1, schedule.engine, schedule.num_gpus_per_run)
    folder = output or Path("paper-results") / experiment
    facts = []
    for path, chosen, options in variants(experiment, asked):
        target = folder / path
        done, verdicts = reproduce(out, chosen, options, target, None if schedule.summary else means)
        show(out, chosen, target, done, verdicts)
        facts.append({
            "experiment": chosen.name, "folder": str(target), "runs": done.total, "done": done.done,
            "failed": len(done.failed),
            "verdicts": [v.as_dict() for v in verdicts],
        })  # fmt: skip
    write_json(json, facts)
    if any(f["failed"] for f in facts):
        raise typer.Exit(1)
