"""One experiment: check the options, run the missing runs, write the folder, print the verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fxteleport.passes.errors import InputError
from fxteleport.plan.choices import check_range
from fxteleport.tools.console import Output, count
from fxteleport.tools.experiments import data, networks, output_folder
from fxteleport.tools.experiments.experiment import Experiment, Options, Verdict
from fxteleport.tools.experiments.sweep import Sweep, gather, is_finished, sweep


def check(asked: Options) -> None:
    """Check names and ranges before the work.

    Raises:
        InputError, CobError, ModelError: an option has an invalid value.
    """
    for sigma in asked.sigmas:
        check_range(sigma, "intra")
    for activation in asked.activations:
        networks.check(activation, "default")
    for init in asked.inits:
        networks.check("relu", init)
    for model in asked.models:
        networks.check_name(model)
    output_folder.require_matplotlib()


@dataclass(frozen=True)
class Means:
    """How a sweep runs: the number of processes, the engine that schedules them, and Ray's GPUs for each."""

    jobs: int
    engine: str
    num_gpus: float


def reproduce(
    out: Output, experiment: Experiment, options: Options, folder: Path, means: Means | None
) -> tuple[Sweep, list[Verdict]]:
    """Run the missing runs (none, without means) and write the folder."""
    runs = experiment.grid(options)
    if means is None:
        done = gather(experiment.name, runs, folder / "runs")
        if not done.done and not done.failed:
            raise InputError(f"there is nothing to sum up: no run of {experiment.name} has ended in '{folder}'")
        return done, output_folder.write_results(folder, experiment, done)
    for run in runs[:1]:  # report a missing data set before the sweep
        data.load(run["data"], run["data_root"])
    folder.mkdir(parents=True, exist_ok=True)
    output_folder.write_config(folder, experiment, options, runs)
    with out.progress(len(runs), sum(is_finished(experiment.name, run, folder / "runs") for run in runs)) as step:
        doing = f"{experiment.name}: measuring, {min(means.jobs, len(runs))} at a time"
        step(doing)
        done = sweep(
            experiment.name, experiment.measure, runs, folder / "runs", means.jobs, means.engine, means.num_gpus,
            lambda: step(doing, 1),
        )  # fmt: skip
    return done, output_folder.write_results(folder, experiment, done)


def show(out: Console, experiment: Experiment, folder: Path, done: Sweep, verdicts: list[Verdict]) -> None:
    """Print the verdicts."""
    failed = f", {len(done.failed)} failed" if done.failed else ""
    part = "" if done.done + len(done.failed) == done.total else f"{done.done} of "
    out.print(Text(f"{experiment.name} ({experiment.figure}): {part}{count(done.total, 'run')}{failed}", style="bold"))
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for v in verdicts:
        mark = Text("holds", style="green") if v.holds else Text("does not hold", style="red")
        table.add_row(mark, Text(f"{v.claim}: {v.value:.4g} [{v.low:.4g}, {v.high:.4g}], {v.statistic} (n = {v.n})"))
    for failure in done.failed[:3]:
        table.add_row(Text("failed", style="red"), Text(f"{failure['run']}: {failure['error']}"))
    table.add_row("written", Text(str(folder)))
    out.print(table)
