"""E3, Figs. 4 and 14 to 16: micro-teleportations are perpendicular to back-propagated gradients.

Angles in degrees, in float64 (float32 hides the effect). With weight decay in the loss the conjecture is false: the
penalty changes along a teleportation, and its gradient has a part along it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import fxteleport as ft
from fxteleport.plan.teleported_point import gradients
from fxteleport.tools.experiments import data, networks, sgd
from fxteleport.tools.experiments.experiment import Experiment, Options, Row, Run, Verdict, column, values, where
from fxteleport.tools.experiments.statistics import bootstrap
from fxteleport.tools.models.determinism import seeded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAIRS = {
    "micro_gradient": "micro-teleportation, gradient",
    "micro_random": "micro-teleportation, random",
    "gradient_random": "gradient, random",
    "random_random": "random, random",
    "micro_decayed": "micro-teleportation, gradient with weight decay",
}
_DECAY = 5e-4


def grid(options: Options) -> list[Run]:
    """Networks, data sets and batch sizes of the paper."""
    sets = (options.data, "random") if options.preset != "paper" else ("cifar10", "cifar100", "random")
    return [
        {
            "data": name, "data_root": options.data_root, "model": model, "activation": activation,
            "sigma": sigma, "batch": batch, "seed": seed, "size": options.pick(8, 8, 32) if model == "resnet18" else 32,
            "times": options.pick(5, 100 if model.startswith("mlp") else 25, 100),
        }
        for name in dict.fromkeys(sets)
        for model in options.models
        or options.pick(("mlp128",), ("mlp128", "resnet18"), ("mlp128", *networks.CONVOLUTIONAL))
        for activation in networks.activations(model, options.activations)
        for batch in options.pick((8,), (8, 64), (8, 64))
        for sigma in options.sigmas or (0.001,)
        for seed in options.seeds(1, 1, 1)
    ]  # fmt: skip


def measure(run: Run) -> list[Row]:
    """Per teleportation (each with a batch of its own) the angle of each pair, in degrees."""
    images = data.load(run["data"], run["data_root"], networks.image_size(run["model"], run["size"]))
    network = networks.build(run["model"], images.shape, images.classes, run["activation"], seed=run["seed"]).double()
    network.train()
    plan = ft.plan(network, images.x[:2].double())
    own = {n: p.detach() for n, p in network.named_parameters()}
    weights = _flat(own)
    rows: list[Row] = []
    for i in range(run["times"]):
        generator = torch.Generator().manual_seed(run["seed"] * 100_000 + i)
        picked = torch.randint(0, len(images.x), (run["batch"],), generator=generator)
        with seeded(i):  # dropout masks
            slope = _flat(gradients(network, sgd.cross_entropy(images.x[picked].double(), images.y[picked])))
        micro = _flat(plan.at(plan.sample(run["sigma"], "intra", seed=run["seed"] * 100_000 + i)).weights) - weights
        noise, other = (torch.randn(weights.shape, generator=generator, dtype=torch.float64) for _ in range(2))
        vectors = {
            "micro_gradient": (micro, slope), "micro_random": (micro, noise), "gradient_random": (slope, noise),
            "random_random": (noise, other), "micro_decayed": (micro, slope + _DECAY * weights),
        }  # fmt: skip
        rows += [
            {"teleportation": i, "pair": k, "degrees": angle(*v), "dimension": len(weights)} for k, v in vectors.items()
        ]
    return rows


def angle(a: Tensor, b: Tensor) -> float:
    """Degrees between two vectors, accurate near 90."""
    cosine = torch.dot(a, b) / (a.norm() * b.norm())
    return float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))))


def _flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors.values()])


def judge(rows: list[Row]) -> list[Verdict]:
    """Over all settings: the largest deviation from 90 degrees; against random vectors; and with weight decay."""

    def deviation(pair: str) -> list[float]:
        return [abs(r["degrees"] - 90) for r in where(rows, pair=pair)]

    own, random, decayed = deviation("micro_gradient"), deviation("micro_random"), deviation("micro_decayed")
    value, low, high = bootstrap(own)
    ratio = bootstrap(
        list(zip(random, own, strict=True)), lambda t: float(t[:, 0].mean() / max(t[:, 1].mean(), 1e-300))
    )
    worse = bootstrap(
        list(zip(decayed, own, strict=True)), lambda t: float(t[:, 0].mean() / max(t[:, 1].mean(), 1e-300))
    )
    return [
        Verdict("micro-teleportations are perpendicular to gradients",
                f"mean |angle - 90| in degrees (largest {max(own):.2e})", value, low, high,
                "every angle within 0.01 degrees of 90", max(own) < 0.01, len(own)),
        Verdict("more so than to random vectors", "mean |angle - 90| to random vectors over that to gradients",
                *ratio, "interval above 10", ratio[1] > 10, len(own)),
        Verdict("with weight decay in the loss it is false",
                f"mean |angle - 90| with weight decay {_DECAY:g} over that without", *worse,
                "interval above 10", worse[1] > 10, len(own)),
    ]  # fmt: skip


def draw(rows: list[Row], figure: Figure) -> None:
    """Four histograms a setting, as in Fig. 4, and below the deviations from 90 degrees on a logarithmic scale."""
    settings = values(rows, "data", "model", "activation", "batch")
    columns = min(4, len(settings))
    lines = -(-len(settings) // columns)
    figure.set_size_inches(max(7.0, 3.2 * columns), 2.7 * lines + 2.4)
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.7 * lines, 2.4])
    above, below = parts
    axes = above.subplots(lines, columns, squeeze=False)
    for axis in axes.flat[len(settings) :]:
        axis.set_axis_off()
    for axis, (name, model, activation, batch) in zip(axes.flat, settings, strict=False):
        _histograms(axis, where(rows, data=name, model=model, activation=activation, batch=batch))
        axis.set_title(f"{model}, {activation}, {name}, batch {batch}", size=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("teleportations")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    above.legend(handles, labels, fontsize=8, ncols=2, loc="outside upper center")
    axis = below.subplots()
    distances = [[max(abs(r["degrees"] - 90), 1e-16) for r in where(rows, pair=p)] for p in PAIRS]
    axis.boxplot(distances, orientation="horizontal", tick_labels=list(PAIRS.values()))
    axis.set_xscale("log")
    axis.set_xlabel("|angle - 90| (degrees), all settings")
    axis.grid(axis="x", alpha=0.3)


def _histograms(axis: Any, rows: list[Row]) -> None:
    """The angles of the four pairs of Fig. 4 in common bins."""
    pairs = list(PAIRS)[:4]
    widest = max(abs(r["degrees"] - 90) for r in rows if r["pair"] in pairs)
    bins = np.linspace(90 - widest, 90 + widest, 32)
    for color, pair in enumerate(pairs):
        degrees = column(where(rows, pair=pair), "degrees")
        axis.hist(degrees, bins=bins, histtype="stepfilled", alpha=0.5, label=PAIRS[pair], color=f"C{color}")
    axis.set_xlabel("angle (degrees)")
    axis.ticklabel_format(axis="x", useOffset=False)


EXPERIMENT = Experiment("micro", "Figs. 4, 14 to 16", grid, measure, judge, draw)
