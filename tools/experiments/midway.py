"""E11, Figs. 12 and 13: teleporting in the middle of training makes the accuracy jump, more with larger sigma.

The same training as E6; the optimiser's momentum moves along, unless asked to be reset or kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fxteleport.tools.experiments import training
from fxteleport.tools.experiments.experiment import Experiment, Options, Row, Run, Verdict, values, where
from fxteleport.tools.experiments.statistics import bootstrap, trend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AFTER = 3  # epochs in which a jump would show
_SIGMAS = (0.5, 0.7, 0.9)
_KEY = ("data", "model", "activation", "init", "momentum", "lr", "seed")  # of runs to compare


def grid(options: Options) -> list[Run]:
    """The training grid, teleported once at an epoch with each sigma, and not at all."""
    at = options.teleport_epoch or options.pick(1, 10, 50)
    runs = []
    for run in training.grid(replace(options, lrs=options.lrs or options.pick((), (0.01,), ()))):
        run["at"], run["epochs"] = [at], max(run["epochs"] if options.preset != "laptop" else 25, at + 1)
        if options.epochs:
            run["epochs"] = max(options.epochs, at + 1)
        if run["method"] == "plain":
            runs.append(run | {"sigma": 0.0})
        else:
            runs += [run | {"sigma": sigma} for sigma in options.sigmas or options.pick((0.9,), _SIGMAS, _SIGMAS)]
    return list({repr(sorted(r.items())): r for r in runs}.values())


def gain(rows: list[Row], key: tuple[object, ...], sigma: float) -> float:
    """Mean accuracy in the epochs after teleporting, less that of the run that was not teleported."""
    own = where(rows, **dict(zip(_KEY, key, strict=True)))
    (at,) = own[0]["at"]
    parts = [
        np.mean([r["test_accuracy"] for r in where(own, sigma=s) if at < r["epoch"] <= at + _AFTER])
        for s in (sigma, 0.0)
    ]
    return float(parts[0] - parts[1])


def judge(rows: list[Row]) -> list[Verdict]:
    """The jump at the largest sigma, and whether it grows with sigma."""
    levels = values(rows, "sigma")
    keys = [k for k in values(rows, *_KEY) if values(where(rows, **dict(zip(_KEY, k, strict=True))), "sigma") == levels]
    sigmas = [s for s in levels if s]
    table = [[gain(rows, key, s) for s in sigmas] for key in keys]
    verdicts = []
    for i, sigma in enumerate(sigmas):
        jump = bootstrap([row[i] for row in table])
        verdicts.append(Verdict(
            "teleporting in the middle of training makes the accuracy jump",
            f"test accuracy in the {_AFTER} epochs after, sigma {sigma:g} less not teleported", *jump,
            "interval above 0", jump[1] > 0, len(table)))  # fmt: skip
    if len(sigmas) > 1:
        rank = trend(table, sigmas)
        verdicts.append(Verdict("the jump is larger with larger sigma", "rank correlation of sigma and the jump", *rank,
                             "interval above 0", rank[1] > 0, len(table)))  # fmt: skip
    return verdicts


def draw(rows: list[Row], figure: Figure) -> None:
    """Accuracy by epoch for each sigma, with the epoch of the teleportation, as in Fig. 12."""
    settings = values(rows, "data", "model", "activation", "init", "momentum", "lr")
    columns = min(4, len(settings))
    lines = -(-len(settings) // columns)
    figure.set_size_inches(max(6.0, 3.4 * columns), 2.8 * lines + 0.4)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axis in axes.flat[len(settings) :]:
        axis.set_axis_off()
    for axis, (data, model, activation, init, momentum, lr) in zip(axes.flat, settings, strict=False):
        own = where(rows, data=data, model=model, activation=activation, init=init, momentum=momentum, lr=lr)
        for color, sigma in enumerate(values(own, "sigma")):
            label = f"sigma {sigma:g}" if sigma else "not teleported"
            training.plot(axis, where(own, sigma=sigma), label, f"C{color}")
        axis.axvline(own[0]["at"][0], color="grey", linestyle=":", label="teleportation")
        axis.set_title(f"{model}, {activation}, {data}\nlr {lr:g}, momentum {momentum:g}", size=8)
        axis.set_xlabel("epoch")
    axes[0, 0].set_ylabel("test accuracy")
    axes[0, 0].set_ylim(0, 1)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, ncols=5, loc="outside upper center")


EXPERIMENT = Experiment("training-midway", "Figs. 12, 13", grid, training.measure, judge, draw)
