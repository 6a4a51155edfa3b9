"""E4, Figs. 5 and 17: teleportation sharpens the landscape, more with larger sigma.

A network is trained twice, with small batches (A) and with large ones (B), and the loss is measured along
(1 - alpha) A + alpha B: between the two as they are, and between a teleported A and a teleported B (with a change of
basis each: with one for both the line would be the same).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import functional_call

import fxteleport as ft
from fxteleport.landscape import landscapes
from fxteleport.tools.experiments import data, networks, sgd
from fxteleport.tools.experiments.experiment import Experiment, Options, Row, Run, Verdict, column, values, where
from fxteleport.tools.experiments.statistics import bootstrap, trend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEAR = 0.1  # how far from either end the rise of the loss is measured


def grid(options: Options) -> list[Run]:
    """Each run trains both networks and teleports them with every sigma; 0 is "as they are"."""
    large = options.pick(64, 256, 1024)
    epochs = [options.epochs] * 2 if options.epochs else options.pick([1, 2], [12, 60], [100, 100])
    return [
        {
            "data": options.data, "data_root": options.data_root, "model": model, "activation": activation,
            "sigmas": [0.0, *(options.sigmas or options.pick((0.9,), (0.3, 0.6, 0.9), (0.3, 0.6, 0.9)))],
            "batches": [8, large], "seed": seed, "points": options.pick(5, 41, 41),
            "epochs": epochs, "limit": options.pick(100, None, None), "lr": 0.01,
        }
        for model in options.models or options.pick(("mlp128",), ("mlp",), ("mlp", "vgg16_bn"))
        for activation in networks.activations(model, options.activations)
        for seed in options.seeds(1, 5, 5)
    ]  # fmt: skip


def measure(run: Run) -> list[Row]:
    """Train and test loss and accuracy along the line, for every sigma."""
    images = data.load(run["data"], run["data_root"], networks.image_size(run["model"]), run["limit"])
    made = []
    for batch, epochs in zip(run["batches"], run["epochs"], strict=True):
        network = networks.build(run["model"], images.shape, images.classes, run["activation"], seed=run["seed"])
        optimizer = torch.optim.SGD(network.parameters(), lr=run["lr"], momentum=0.9)
        sgd.train(network, optimizer, images, epochs, batch, run["seed"])
        made.append(network.double().eval())
    plan = ft.plan(made[0], images.x[:2].double(), mode="weights")
    ends = [{n: p.detach() for n, p in m.named_parameters()} for m in made]
    statistics = [{n: b.double() for n, b in m.named_buffers() if b.is_floating_point()} for m in made]
    rows: list[Row] = []
    for sigma in run["sigmas"]:
        cobs = [plan.sample(sigma, "intra", seed=run["seed"] * 1000 + i) for i in range(2)]
        first, second = [
            {n: w * scales[n] if n in scales else w for n, w in end.items()}
            for end, scales in zip(ends, [plan.scales(cob) for cob in cobs], strict=True)
        ]
        for alpha in np.linspace(-0.5, 1.5, run["points"]).round(6).tolist():
            # Running statistics stay between those of the two: a variance must not turn negative.
            between = landscapes.interpolate(statistics[0], statistics[1], min(max(alpha, 0), 1))
            weights = landscapes.interpolate(first, second, alpha) | between
            row: Row = {"sigma": sigma, "alpha": alpha}
            for part, x, y in (("train", images.x, images.y), ("test", images.test_x, images.test_y)):
                with torch.no_grad():
                    out = functional_call(made[0], weights, (x[:1000].double(),))
                row[f"{part}_loss"] = float(F.cross_entropy(out, y[:1000]))
                row[f"{part}_accuracy"] = float((out.argmax(1) == y[:1000]).double().mean())
            rows.append(row)
    return rows


def rise(rows: list[Row]) -> float:
    """How much the log of the training loss rises within 0.1 of the two ends, on average over both sides."""
    line = sorted((r["alpha"], np.log(max(r["train_loss"], 1e-12))) for r in rows)
    alphas, losses = np.array(line).T
    near = [
        np.interp([end - _NEAR, end + _NEAR], alphas, losses).mean() - np.interp(end, alphas, losses) for end in (0, 1)
    ]
    return float(np.mean(near))


def judge(rows: list[Row]) -> list[Verdict]:
    """The rise near the ends grows with sigma, run by run."""
    sigmas = values(rows, "sigma")
    keys = values(rows, "model", "activation", "seed")
    table = [[rise(where(rows, model=m, activation=a, seed=s, sigma=sigma)) for sigma in sigmas] for m, a, s in keys]
    more = bootstrap([row[-1] - row[0] for row in table])
    rank = trend(table, sigmas)
    return [
        Verdict("teleportation sharpens the landscape",
                f"rise of the log loss within {_NEAR} of the ends, sigma {sigmas[-1]:g} less not teleported",
                *more, "interval above 0", more[1] > 0, len(table)),
        Verdict("it sharpens more with larger sigma", "rank correlation of sigma and that rise", *rank,
                "interval above 0.5", rank[1] > 0.5, len(table)),
    ]  # fmt: skip


def draw(rows: list[Row], figure: Figure) -> None:
    """Loss and accuracy along the line, a panel for each sigma, as in Fig. 5 (means over runs)."""
    models, sigmas = values(rows, "model", "activation"), values(rows, "sigma")
    figure.set_size_inches(3.1 * len(sigmas), 2.9 * len(models) + 0.3)
    axes = figure.subplots(len(models), len(sigmas), squeeze=False, sharey="row")
    for line, (model, activation) in zip(axes, models, strict=True):
        for axis, sigma in zip(line, sigmas, strict=True):
            own = where(rows, model=model, activation=activation, sigma=sigma)
            alphas = values(own, "alpha")
            twin = axis.twinx()
            for part, style in (("train", "-"), ("test", "--")):
                loss = [np.mean(column(where(own, alpha=a), f"{part}_loss")) for a in alphas]
                accuracy = [np.mean(column(where(own, alpha=a), f"{part}_accuracy")) for a in alphas]
                axis.plot(alphas, loss, style, color="C0", label=f"{part} loss")
                twin.plot(alphas, accuracy, style, color="C1", label=f"{part} accuracy")
            axis.set_yscale("log")
            axis.set_title(f"{model}: " + (f"sigma {sigma:g}" if sigma else "not teleported"), size=9)
            axis.set_xlabel("alpha (0: A, small batches; 1: B, large)", size=8)
            twin.set_ylim(0, 1.05)
            twin.tick_params(labelright=axis is line[-1])
        line[0].set_ylabel("cross-entropy", color="C0")
        twin.set_ylabel("accuracy", color="C1")
        handles = line[0].get_legend_handles_labels()[0] + twin.get_legend_handles_labels()[0]
    figure.legend(handles=handles, fontsize=8, ncols=4, loc="outside upper center")


EXPERIMENT = Experiment("flatness", "Figs. 5, 17", grid, measure, judge, draw)
