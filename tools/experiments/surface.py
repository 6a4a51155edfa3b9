"""Loss surfaces in two dimensions, as of Li et al., "Visualizing the loss landscape of neural nets".

Around a trained network and the same one teleported, in a plane of filter-normalised random directions (E4 in two
dimensions); and in the plane of the main directions of its training trajectory, teleported as a whole. Filter
normalisation undoes the scale of a neuron's own weights, not that of its inputs: by Section 5 of the paper, noise as
large as the teleported weights is (3 + sigma^2) / (3 (1 - sigma^2)) times as large, squared, for the original ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import fxteleport as ft
from fxteleport.landscape import curvature, landscapes
from fxteleport.plan.teleported_point import Weights
from fxteleport.tools.experiments import data, networks, sgd
from fxteleport.tools.experiments.experiment import Experiment, Options, Row, Run, Verdict, column, values, where
from fxteleport.tools.experiments.statistics import bootstrap, trend
from fxteleport.tools.plots.palette import SURFACE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEAR = 0.25  # within how many filter norms the rise of the loss is measured
_MARGIN = 0.2  # of a trajectory's extent, round it
RANDOM, TRAJECTORY = "random", "trajectory"


def grid(options: Options) -> list[Run]:
    """A run for each seed and sigma; 0 is "as it is"."""
    return [
        {
            "data": options.data, "data_root": options.data_root, "model": model, "activation": activation,
            "sigma": sigma, "landscape": "intra", "seed": seed, "points": options.pick(5, 21, 51),
            "epochs": options.epochs or options.pick(2, 20, 100), "lr": 0.01, "batch": 64,
            "images": options.pick(64, 256, 1000), "limit": options.pick(100, None, None),
        }
        for model in options.models or options.pick(("mlp128",), ("mlp",), ("mlp", "vgg16_bn"))
        for activation in networks.activations(model, options.activations)
        for seed in options.seeds(1, 5, 5)
        for sigma in (0.0, *(options.sigmas or options.pick((0.9,), (0.5, 0.9), (0.5, 0.9))))
    ]  # fmt: skip


def measure(run: Run) -> list[Row]:
    """The training loss on both planes, the trajectory in its own, and the shares of its variance."""
    images = data.load(run["data"], run["data_root"], networks.image_size(run["model"]), run["limit"])
    network = networks.build(run["model"], images.shape, images.classes, run["activation"], seed=run["seed"])
    optimizer = torch.optim.SGD(network.parameters(), lr=run["lr"], momentum=0.9)
    path: list[Weights] = []

    def remember(epoch: int) -> None:
        path.append({n: p.detach().clone().double() for n, p in network.named_parameters()})

    sgd.train(network, optimizer, images, run["epochs"], run["batch"], run["seed"], remember)
    remember(run["epochs"])
    network = network.double().eval()
    x, y = images.x[: run["images"]].double(), images.y[: run["images"]]
    plan = ft.plan(network, x[:2])
    point = plan.at(plan.sample(run["sigma"], run["landscape"], seed=run["seed"]))
    loss = curvature.around(point, sgd.cross_entropy(x, y))
    moved = [{n: point.teleported(n, w) for n, w in weights.items()} for weights in path]
    first, second = (landscapes.random_direction(moved[-1], 2 * run["seed"] + i) for i in range(2))
    steps = np.linspace(-1, 1, run["points"])
    rows = _surface(RANDOM, loss, moved[-1], (first, second), steps, steps)
    plane = landscapes.pca_plane(moved)
    xs, ys = (_round(part, run["points"]) for part in plane.coordinates.T.numpy())
    rows += _surface(TRAJECTORY, loss, plane.center, plane.directions, xs, ys)
    shares = dict(zip(("first_share", "second_share"), plane.explained.tolist(), strict=True))
    rows += [
        {"plane": TRAJECTORY, "epoch": epoch, "x": x, "y": y, **shares}
        for epoch, (x, y) in enumerate(plane.coordinates.tolist())
    ]
    return rows


def _surface(
    plane: str, loss: curvature.LossOfWeights, center: Weights, directions: tuple[Weights, Weights], xs: Any, ys: Any
) -> list[Row]:
    losses = landscapes.surface(loss, center, *directions, xs.tolist(), ys.tolist()).tolist()
    return [
        {"plane": plane, "x": float(x), "y": float(y), "loss": value}
        for y, line in zip(ys, losses, strict=True)
        for x, value in zip(xs, line, strict=True)
    ]


def _round(coordinates: Any, points: int) -> Any:
    """Steps over a trajectory's extent and some way round it."""
    low, high = coordinates.min(), coordinates.max()
    margin = _MARGIN * (high - low) or 1.0
    return np.linspace(low - margin, high + margin, points)


def rise(rows: list[Row]) -> float:
    """How much the log of the loss rises within 0.25 filter norms of the network, on average over the grid there."""
    own = where(rows, plane=RANDOM)
    center = min(own, key=lambda r: r["x"] ** 2 + r["y"] ** 2)
    near = [r for r in own if r is not center and r["x"] ** 2 + r["y"] ** 2 <= _NEAR**2] or own
    logs = [np.log(max(r["loss"], 1e-12)) for r in (center, *near)]
    return float(np.mean(logs[1:]) - logs[0])


def judge(rows: list[Row]) -> list[Verdict]:
    """The rise of the loss, paired by seed; and how much of a trajectory its plane holds."""
    sigmas = values(rows, "sigma")
    keys = values(rows, "data", "model", "activation", "seed")
    runs = [where(rows, data=d, model=m, activation=a, seed=s) for d, m, a, s in keys]
    table = [[rise(where(own, sigma=sigma)) for sigma in sigmas] for own in runs if values(own, "sigma") == sigmas]
    more = bootstrap([row[-1] - row[0] for row in table])
    rank = trend(table, sigmas)
    ends = where(rows, plane=TRAJECTORY, epoch=0, sigma=0.0)
    held = bootstrap([r["first_share"] + r["second_share"] for r in ends])
    return [
        Verdict("teleportation sharpens the landscape",
                f"rise of the log loss within {_NEAR} filter norms, sigma {sigmas[-1]:g} less not teleported",
                *more, "interval above 0", more[1] > 0, len(table)),
        Verdict("it sharpens more with larger sigma", "rank correlation of sigma and that rise", *rank,
                "interval above 0.5", rank[1] > 0.5, len(table)),
        Verdict("a plane holds most of a training trajectory (Li et al.)",
                "share of its variance in two directions, not teleported", *held,
                "interval above 0.5", held[1] > 0.5, len(ends)),
    ]  # fmt: skip


def draw(rows: list[Row], figure: Figure) -> None:
    """The surfaces of the first run: above random directions, below the trajectory; a column for each sigma."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    setting = values(rows, "data", "model", "activation", "seed")[0]
    own = where(rows, **dict(zip(("data", "model", "activation", "seed"), setting, strict=True)))
    sigmas = values(own, "sigma")
    figure.set_size_inches(3.2 * len(sigmas) + 0.8, 6.4)
    axes = figure.subplots(2, len(sigmas), squeeze=False)
    for line, plane in zip(axes, (RANDOM, TRAJECTORY), strict=True):
        grids = [[r for r in where(own, plane=plane, sigma=sigma) if "loss" in r] for sigma in sigmas]
        logs = np.log10([max(r["loss"], 1e-12) for grid in grids for r in grid])
        levels = np.linspace(logs.min(), logs.max(), 25)
        for axis, sigma, grid in zip(line, sigmas, grids, strict=True):
            xs, ys = (sorted({r[k] for r in grid}) for k in ("x", "y"))
            z = np.log10(np.maximum(column(grid, "loss"), 1e-12)).reshape(len(ys), len(xs))
            filled = axis.contourf(xs, ys, z, levels=levels, cmap=SURFACE)
            axis.contour(xs, ys, z, levels=levels[::3], colors="white", linewidths=0.4, linestyles="solid")
            name = f"sigma {sigma:g}" if sigma else "not teleported"
            axis.set_title(f"{setting[1]}, {setting[2]}, {setting[0]}: {name}", size=9)
            if plane == RANDOM:
                axis.plot(0, 0, "P", color="white", markeredgecolor="black", label="the network")
                axis.set_xlabel("random direction 1 (filter norms)", size=8)
                axis.set_ylabel("random direction 2 (filter norms)", size=8)
            else:
                _trajectory(axis, [r for r in where(own, plane=plane, sigma=sigma) if "epoch" in r])
        bar = figure.colorbar(filled, ax=list(line), label="training loss (log10 of cross-entropy)")
        bar.locator, bar.formatter = MaxNLocator(8), StrMethodFormatter("{x:.2g}")
        bar.update_ticks()
    handles = {label: h for axis in axes[:, 0] for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), fontsize=8, ncols=3, loc="outside upper center")


def _trajectory(axis: Any, path: list[Row]) -> None:
    """The weights after every epoch."""
    x, y = column(path, "x"), column(path, "y")
    axis.plot(x, y, "-o", color="black", markersize=2.5, linewidth=1, label="its training, epoch by epoch")
    axis.plot(x[0], y[0], "s", color="white", markeredgecolor="black", label="start")
    axis.plot(x[-1], y[-1], "P", color="white", markeredgecolor="black", label="the network")
    axis.set_xlabel(f"main direction 1 (distance; {path[0]['first_share']:.0%} of the variance)", size=8)
    axis.set_ylabel(f"main direction 2 (distance; {path[0]['second_share']:.0%})", size=8)


EXPERIMENT = Experiment("surface", "Li et al., Figs. 5 and 9", grid, measure, judge, draw)
