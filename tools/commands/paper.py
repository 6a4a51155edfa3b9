"""`fxteleport paper`: the paper's experiments, each with numbers, a verdict as measured, and the figure."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fxteleport.passes.errors import InputError
from fxteleport.plan.cob import check_range
from fxteleport.tools.console import console, count, progress, write_json
from fxteleport.tools.experiments import (  # fmt: skip
    data,
    feature_maps,
    flatness,
    gradients,
    histogram,
    level_set,
    micro,
    midway,
    networks,
    output_folder,
    surface,
    training,
)
from fxteleport.tools.experiments.experiment import PRESETS, Experiment, Options, Verdict
from fxteleport.tools.experiments.sweep import ENGINES, Sweep, gather, sweep
from fxteleport.tools.options import common as cli
from fxteleport.training.optimizer_state import STATES

EXPERIMENTS = {
    e.name: e
    for e in (
        feature_maps.EXPERIMENT, level_set.EXPERIMENT, micro.EXPERIMENT, flatness.EXPERIMENT, surface.EXPERIMENT,
        gradients.EXPERIMENT, training.EXPERIMENT, training.PSEUDO, histogram.EXPERIMENT,
    )
}  # fmt: skip
ALL = "all"
_WHAT, _SWEEP = "What", "Sweep"


def _many(name: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(name, help=text + " Repeat for several.", metavar=metavar, rich_help_panel=_WHAT)


Name = Annotated[str, typer.Argument(metavar="EXPERIMENT", help=f"{', '.join(EXPERIMENTS)}, or {ALL}.")]


def paper(
    experiment: Name,
    preset: Annotated[
        str, typer.Option("--preset", help="smoke: seconds. laptop: minutes on 2 cores. paper: the paper's grid.",
                          metavar="|".join(PRESETS), rich_help_panel=_WHAT)
    ] = "laptop",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Default: paper-results/EXPERIMENT.")
    ] = None,
    data_set: Annotated[
        str, typer.Option("--data", metavar="NAME", help=f"Data set: {', '.join(data.NAMES)}.", rich_help_panel=_WHAT)
    ] = "digits",
    data_root: Annotated[
        str, typer.Option("--data-root", metavar="DIR", help="Where its files are, or go.", rich_help_panel=_WHAT)
    ] = "data",
    model: Annotated[
        list[str] | None, _many("--model", "mlp, mlp128, vgg16_bn, resnet18, densenet121 or any MODEL.", "MODEL")
    ] = None,
    activation: Annotated[
        list[str] | None, _many("--activation", f"In place of ReLU: {', '.join(networks.ACTIVATIONS)}.", "NAME")
    ] = None,
    init: Annotated[list[str] | None, _many("--init", f"{', '.join(networks.INITS)}.", "NAME")] = None,
    sigma: Annotated[list[float] | None, _many("--sigma", "CoB-range.", "S")] = None,
    lr: Annotated[list[float] | None, _many("--lr", "Learning rate.", "LR")] = None,
    runs: Annotated[int | None, typer.Option("--runs", help="Repetitions.", min=1, rich_help_panel=_WHAT)] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Of training.", min=1, rich_help_panel=_WHAT)] = None,
    teleport_epoch: Annotated[
        int | None,
        typer.Option("--teleport-epoch", min=1, rich_help_panel=_WHAT,
                     help="training: teleport at this epoch, not at the start (E11)."),
    ] = None,
    every: Annotated[
        int | None, typer.Option("--every", min=1, help="training: every N epochs.", metavar="N", rich_help_panel=_WHAT)
    ] = None,
    probability: Annotated[
        float, typer.Option("--probability", min=0, max=1, help="training: each epoch with this chance.",
                            metavar="P", rich_help_panel=_WHAT)
    ] = 0.0,
    candidates: Annotated[
        int, typer.Option("--candidates", min=1, help="training: the best of K.", metavar="K", rich_help_panel=_WHAT)
    ] = 1,
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="|".join(training.METRICS), rich_help_panel=_WHAT,
                                 help="Best by the largest gradient norm, or the smallest loss after a step.")
    ] = None,
    state: Annotated[
        str, typer.Option("--state", metavar="|".join(STATES), rich_help_panel=_WHAT,
                          help="What happens to the optimiser's state then.")
    ] = "transport",
    jobs: Annotated[
        int, typer.Option("--jobs", help="Processes at a time; 0: one a core.", min=0, rich_help_panel=_SWEEP)
    ] = 0,
    engine: Annotated[
        str, typer.Option("--engine", metavar="|".join(ENGINES), help="What schedules runs.", rich_help_panel=_SWEEP)
    ] = "local",
    num_gpus_per_run: Annotated[
        float, typer.Option("--num-gpus-per-run", help="For --engine ray.", min=0, rich_help_panel=_SWEEP)
    ] = 0.0,
    summary: Annotated[
        bool, typer.Option("--summary", help="Run nothing: sum up what is there by now.", rich_help_panel=_SWEEP)
    ] = False,
    json: cli.Json = None,
    seed: cli.Seed = 0,
) -> None:  # fmt: skip
    """Reproduce an experiment of the paper; interrupted, it goes on where it was.

    Example: fxteleport paper gradients --preset smoke --output results
    """
    out = console(json)
    cli.one_of("--preset", preset, PRESETS)
    cli.one_of("--engine", engine, ENGINES)
    cli.one_of("--data", data_set, tuple(data.NAMES))
    cli.one_of("--state", state, STATES)
    cli.one_of("EXPERIMENT", experiment, (*EXPERIMENTS, ALL))
    asked = Options(
        preset, data_set, data_root, tuple(model or ()), tuple(activation or ()), tuple(init or ()),
        tuple(sigma or ()), tuple(lr or ()), runs, epochs, teleport_epoch, every, probability, candidates,
        metric, state, seed,
    )  # fmt: skip
    check(asked)
    folder = output or Path("paper-results") / experiment
    facts = []
    for path, chosen, options in variants(experiment, asked):
        place = folder / path
        means = None if summary else Means(jobs or os.cpu_count() or 1, engine, num_gpus_per_run)
        done, verdicts = reproduce(chosen, options, place, means)
        show(out, chosen, place, done, verdicts)
        facts.append({
            "experiment": chosen.name, "folder": str(place), "runs": done.total, "done": done.done,
            "failed": len(done.failed),
            "verdicts": [v.as_dict() for v in verdicts],
        })  # fmt: skip
    write_json(json, facts)
    if any(f["failed"] for f in facts):
        raise typer.Exit(1)


def check(asked: Options) -> None:
    """Find what is wrong with a call before the work.

    Raises:
        InputError, CobError, ModelError: an option has a value that cannot be.
    """
    if asked.seed < 0:
        raise InputError(f"--seed must not be negative, got {asked.seed}")
    for sigma in asked.sigmas:
        check_range(sigma, "intra")
    for activation in asked.activations:
        networks.check(activation, "default")
    for init in asked.inits:
        networks.check("relu", init)
    for model in asked.models:
        networks.check_name(model)
    if asked.metric is not None:
        cli.one_of("--metric", asked.metric, tuple(training.METRICS))
    if asked.candidates > 1 and asked.metric is None:
        raise InputError("--candidates takes the best of several by a --metric: pass one")
    if any(lr <= 0 for lr in asked.lrs):
        raise InputError(f"--lr must be positive, got {min(asked.lrs):g}")
    output_folder.require_matplotlib()


def variants(name: str, asked: Options) -> list[tuple[str, Experiment, Options]]:
    """(folder, experiment, options) of what a name stands for; "all" has E7, E8 and E11 as variants of `training`."""
    if name == "training" and asked.teleport_epoch is not None:
        return [("", midway.EXPERIMENT, asked)]
    if name != ALL:
        return [("", EXPERIMENTS[name], asked)]
    found = [(e.name, e, asked) for e in EXPERIMENTS.values()]
    fewer: dict[str, Any] = {"lrs": asked.lrs or asked.pick((), (0.01,), ())}
    activations = asked.activations or asked.pick(("tanh",), *[("leakyrelu", "tanh", "elu")] * 2)
    inits = asked.inits or asked.pick(("xavier",), *[("gaussian", "xavier")] * 2)
    found.append(("training-activations", training.EXPERIMENT, replace(asked, activations=activations, **fewer)))
    found.append(("training-inits", training.EXPERIMENT, replace(asked, inits=inits, **fewer)))
    found.append(("training-midway", midway.EXPERIMENT, asked))
    return found


@dataclass(frozen=True)
class Means:
    """What runs a sweep: processes at a time, the engine that schedules them, and Ray's GPUs for each."""

    jobs: int
    engine: str
    num_gpus: float


def reproduce(
    experiment: Experiment, options: Options, folder: Path, means: Means | None
) -> tuple[Sweep, list[Verdict]]:
    """Run what is missing (nothing, without means) and write the folder."""
    runs = experiment.grid(options)
    if means is None:
        done = gather(experiment.name, runs, folder / "runs")
        if not done.done and not done.failed:
            raise InputError(f"there is nothing to sum up: no run of {experiment.name} has ended in '{folder}'")
        return done, output_folder.write_results(folder, experiment, done)
    for run in runs[:1]:  # a data set that is not there is told before the sweep
        data.load(run["data"], run["data_root"])
    folder.mkdir(parents=True, exist_ok=True)
    output_folder.write_config(folder, experiment, options, runs)
    with progress(len(runs)) as step:
        done = sweep(
            experiment.name, experiment.measure, runs, folder / "runs", means.jobs, means.engine, means.num_gpus,
            lambda: step(experiment.name, 1),
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
