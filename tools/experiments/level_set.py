"""E2, Section 4.2: teleported networks sit on one loss level, far apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import fxteleport as ft
from fxteleport.tools.experiments import data, networks, sgd
from fxteleport.tools.experiments.experiment import Experiment, Options, Row, Run, Verdict, column, values, where
from fxteleport.tools.experiments.statistics import bootstrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def grid(options: Options) -> list[Run]:
    """One run a network: a trained network, teleported many times."""
    return [
        {
            "data": options.data, "data_root": options.data_root, "model": model, "activation": activation,
            "sigma": sigma, "landscape": "inter", "seed": seed, "times": options.pick(10, 100, 100),
            "epochs": options.epochs or options.pick(1, 10, 10), "limit": options.pick(100, None, None),
        }
        for model in options.models or options.pick(("mlp128",), ("mlp",), ("mlp",))
        for activation in networks.activations(model, options.activations)
        for sigma in options.sigmas or options.pick((0.9,), (0.1, 0.3, 0.5, 0.7, 0.9), (0.1, 0.3, 0.5, 0.7, 0.9))
        for seed in options.seeds(1, 1, 1)
    ]  # fmt: skip


def measure(run: Run) -> list[Row]:
    """Per teleportation: mean absolute weight, its mean absolute change, and the change of the loss, in float64."""
    images = data.load(run["data"], run["data_root"], networks.image_size(run["model"]), run["limit"])
    network = networks.build(run["model"], images.shape, images.classes, run["activation"], seed=run["seed"])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    sgd.train(network, optimizer, images, run["epochs"], 32, run["seed"])
    network = network.double().eval()
    x, y = images.test_x.double(), images.test_y
    plan = ft.plan(network, x[:2])
    own = torch.cat([p.detach().reshape(-1) for p in network.parameters()])
    loss, accuracy = sgd.evaluate(network, x, y)
    rows: list[Row] = []
    for i in range(run["times"]):
        moved = plan.rewrite(plan.sample(run["sigma"], run["landscape"], seed=run["seed"] * 100_000 + i))
        weights = torch.cat([moved.get_parameter(n).detach().reshape(-1) for n, _ in network.named_parameters()])
        moved_loss, _ = sgd.evaluate(moved, x, y)
        rows.append({
            "teleportation": i, "mean_abs_weight": float(own.abs().mean()),
            "mean_abs_change": float((weights - own).abs().mean()), "loss": loss, "accuracy": accuracy,
            "loss_difference": abs(moved_loss - loss),
        })  # fmt: skip
    return rows


def judge(rows: list[Row]) -> list[Verdict]:
    """At the largest sigma: the change is at least half of the weights, the loss differs by rounding."""
    own = where(rows, sigma=max(values(rows, "sigma")))
    change = bootstrap([r["mean_abs_change"] / r["mean_abs_weight"] for r in own])
    loss = bootstrap(column(own, "loss_difference"))
    return [
        Verdict("teleported networks are far from the original",
                "mean absolute weight change over mean absolute weight, at the largest sigma",
                *change, "interval above 0.5", change[1] > 0.5, len(own)),
        Verdict("teleported networks sit on one loss level", "mean absolute loss difference, float64",
                *loss, "interval below 1e-9", loss[2] < 1e-9, len(own)),
    ]  # fmt: skip


def draw(rows: list[Row], figure: Figure) -> None:
    """How far the weights go, and how little the loss does, by sigma."""
    left, right = figure.subplots(1, 2)
    sigmas = values(rows, "sigma")
    ratio = [[r["mean_abs_change"] / r["mean_abs_weight"] for r in where(rows, sigma=s)] for s in sigmas]
    loss = [[max(r["loss_difference"], 1e-18) for r in where(rows, sigma=s)] for s in sigmas]
    for axis, values_of in ((left, ratio), (right, loss)):
        axis.boxplot(values_of, tick_labels=[f"{s:g}" for s in sigmas])
        axis.set_xlabel("CoB-range sigma")
    left.set_title("the weights go far", size=10)
    right.set_title(f"the loss (of {rows[0]['loss']:.2g}) stays", size=10)
    left.set_ylabel("mean |weight change| / mean |weight|")
    left.set_ylim(bottom=0)
    right.set_yscale("log")
    right.axhline(1e-9, color="grey", linestyle="--", label="bound of the claim, 1e-9")
    right.set_ylabel("|loss difference|, float64 (0 drawn at 1e-18)")
    right.legend()


EXPERIMENT = Experiment("level-set", "Section 4.2", grid, measure, judge, draw)
