"""E10, Fig. 11: the weights of a network before and after one teleportation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

import fxteleport as ft
from fxteleport.tools.experiments import data, networks
from fxteleport.tools.experiments.experiment import Experiment, Options, Row, Run, Verdict, column, values, where
from fxteleport.tools.experiments.statistics import bootstrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 81


def grid(options: Options) -> list[Run]:
    """Default initialisation, one teleportation."""
    return [
        {
            "data": options.data, "data_root": options.data_root, "model": model, "activation": activation,
            "init": init, "sigma": sigma, "landscape": "inter", "seed": seed,
        }
        for model in options.models or options.pick(("mlp128",), ("mlp",), ("mlp", *networks.CONVOLUTIONAL))
        for activation in networks.activations(model, options.activations)
        for init in options.inits or ("default",)
        for sigma in options.sigmas or (0.9,)
        for seed in options.seeds(2, 10, 10)
    ]  # fmt: skip


def measure(run: Run) -> list[Row]:
    """The densities of all weights in bins, their spreads, and how many left the range they were initialised in."""
    images = data.load(run["data"], run["data_root"], networks.image_size(run["model"]))
    network = networks.build(run["model"], images.shape, images.classes, run["activation"], run["init"], run["seed"])
    plan = ft.plan(network.eval(), images.x[:2])
    point = plan.at(plan.sample(run["sigma"], run["landscape"], seed=run["seed"]))
    own = [p.detach() for p in network.parameters()]
    moved = [w.detach() for w in point.weights.values()]
    outside = sum(int((b.abs() > a.abs().max()).sum()) for a, b in zip(own, moved, strict=True))
    before, after = (torch.cat([p.reshape(-1) for p in tensors]).double().numpy() for tensors in (own, moved))
    edge = float(np.quantile(np.abs(after), 0.995))
    bins = np.linspace(-edge, edge, _BINS)
    densities = [np.histogram(w, bins)[0] / len(w) / (bins[1] - bins[0]) for w in (before, after)]
    rows: list[Row] = [
        {"kind": "summary", "deviation_before": float(before.std()), "deviation_after": float(after.std()),
         "outside": outside / len(after)}
    ]  # fmt: skip
    rows += [
        {"kind": "bin", "weight": float(x), "before": float(a), "after": float(b)}
        for x, a, b in zip((bins[:-1] + bins[1:]) / 2, *densities, strict=True)
    ]
    return rows


def judge(rows: list[Row]) -> list[Verdict]:
    """The weights spread, and leave the range of their initialisation."""
    own = where(rows, kind="summary")
    spread = bootstrap([r["deviation_after"] / r["deviation_before"] for r in own])
    outside = bootstrap(column(own, "outside"))
    return [
        Verdict("one teleportation spreads the weights", "standard deviation after over before", *spread,
                "interval above 1", spread[1] > 1, len(own)),
        Verdict("weights leave the range of their initialisation",
                "share of weights larger than any of their tensor was before", *outside,
                "interval above 0.01", outside[1] > 0.01, len(own)),
    ]  # fmt: skip


def draw(rows: list[Row], figure: Figure) -> None:
    """Both histograms, of the first run of each network."""
    groups = values(rows, "model", "activation", "init", "sigma")
    figure.set_size_inches(4.5 * len(groups), 3.2)
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for axis, (model, activation, init, sigma) in zip(axes, groups, strict=True):
        own = where(rows, model=model, activation=activation, init=init, sigma=sigma)
        bins = where(own, kind="bin", seed=values(own, "seed")[0])
        for name in ("before", "after"):
            axis.fill_between(column(bins, "weight"), column(bins, name), step="mid", alpha=0.5, label=name)
        axis.set_title(f"{model}, {activation}, init {init}, sigma {sigma:g}", size=9)
        axis.set_xlabel("weight")
        axis.set_ylabel("density")
        axis.legend(title="teleportation")


EXPERIMENT = Experiment("histogram", "Fig. 11", grid, measure, judge, draw)
