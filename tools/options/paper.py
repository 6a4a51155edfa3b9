"""The options of `paper`: what is measured, and how its runs are scheduled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from fxteleport.passes.errors import InputError
from fxteleport.tools.options.common import one_of
from fxteleport.tools.options.dataclass_options import option

EXPERIMENTS = ("feature-maps", "level-set", "micro", "flatness", "surface", "gradients", "training", "pseudo",
               "histogram")  # fmt: skip
ALL = "all"
PRESETS = ("smoke", "laptop", "paper")
DATA = ("digits", "mnist", "cifar10", "cifar100", "random", "folder")
ACTIVATIONS = ("relu", "leakyrelu", "tanh", "elu")
INITS = ("default", "gaussian", "xavier")
METRICS = ("gradient-norm", "lookahead")
STATES = ("transport", "reset", "keep")
ENGINES = ("local", "ray")
_WHAT, _SWEEP = "What", "Sweep"

Name = Annotated[str, typer.Argument(metavar="EXPERIMENT", help=f"{', '.join(EXPERIMENTS)}, or {ALL}.")]


def _many(name: str, text: str, metavar: str | None = None) -> Any:
    return option(name, _WHAT, text + " Repeat for several.", metavar)


@dataclass(frozen=True)
class What:
    """What is measured: a preset, and what differs from it."""

    preset: Annotated[
        str,
        option(
            "--preset", _WHAT, "smoke: seconds. laptop: minutes on 2 cores. paper: the paper's grid.", "|".join(PRESETS)
        ),
    ] = "laptop"
    data_set: Annotated[str, option("--data", _WHAT, f"Data set: {', '.join(DATA)}.", "NAME")] = "digits"
    data_root: Annotated[str, option("--data-root", _WHAT, "Where its files are, or go.", "DIR")] = "data"
    model: Annotated[
        list[str] | None, _many("--model", "mlp, mlp128, vgg16_bn, resnet18, densenet121 or any MODEL.", "MODEL")
    ] = None
    activation: Annotated[
        list[str] | None, _many("--activation", f"In place of ReLU: {', '.join(ACTIVATIONS)}.", "NAME")
    ] = None
    init: Annotated[list[str] | None, _many("--init", f"{', '.join(INITS)}.", "NAME")] = None
    sigma: Annotated[list[float] | None, _many("--sigma", "CoB-range.", "S")] = None
    lr: Annotated[list[float] | None, _many("--lr", "Learning rate.", "LR")] = None
    runs: Annotated[int | None, option("--runs", _WHAT, "Repetitions.", min=1)] = None
    epochs: Annotated[int | None, option("--epochs", _WHAT, "Of training.", min=1)] = None
    teleport_epoch: Annotated[
        int | None,
        option("--teleport-epoch", _WHAT, "training: teleport at this epoch, not at the start (E11).", min=1),
    ] = None
    every: Annotated[int | None, option("--every", _WHAT, "training: every N epochs.", "N", min=1)] = None
    probability: Annotated[
        float, option("--probability", _WHAT, "training: each epoch with this chance.", "P", min=0, max=1)
    ] = 0.0
    candidates: Annotated[int, option("--candidates", _WHAT, "training: the best of K.", "K", min=1)] = 1
    metric: Annotated[
        str | None,
        option(
            "--metric",
            _WHAT,
            "Best by the largest gradient norm, or the smallest loss after a step.",
            "|".join(METRICS),
        ),
    ] = None
    state: Annotated[str, option("--state", _WHAT, "What happens to the optimiser's state then.", "|".join(STATES))] = (
        "transport"
    )

    def __post_init__(self) -> None:
        one_of("--preset", self.preset, PRESETS)
        one_of("--data", self.data_set, DATA)
        one_of("--state", self.state, STATES)
        if self.metric is not None:
            one_of("--metric", self.metric, METRICS)
        if self.candidates > 1 and self.metric is None:
            raise InputError("--candidates takes the best of several by a --metric: pass one")
        if any(lr <= 0 for lr in self.lr or ()):
            raise InputError(f"--lr must be positive, got {min(self.lr or ()):g}")


@dataclass(frozen=True)
class Schedule:
    """How runs are scheduled."""

    jobs: Annotated[int, option("--jobs", _SWEEP, "Processes at a time; 0: one a core.", min=0)] = 0
    engine: Annotated[str, option("--engine", _SWEEP, "What schedules runs.", "|".join(ENGINES))] = "local"
    num_gpus_per_run: Annotated[float, option("--num-gpus-per-run", _SWEEP, "For --engine ray.", min=0)] = 0.0
    summary: Annotated[bool, option("--summary", _SWEEP, "Run nothing: sum up what is there by now.")] = False

    def __post_init__(self) -> None:
        one_of("--engine", self.engine, ENGINES)
