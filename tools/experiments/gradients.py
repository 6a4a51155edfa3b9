"""E5, Figs. 6 and 18: the normalised gradient changes more with larger sigma; and Theorem 5.1 against measurement.

Theory: gradients scale by tau_a / tau_b, so for weights between two teleported neurons the expected squared ratio is
E[(tau_a / tau_b)^2] = (3 + sigma^2) / (3 (1 - sigma^2)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

import fxteleport as ft
from fxteleport.plan.teleported_point import gradients
from fxteleport.tools.experiments import data, networks, sgd
from fxteleport.tools.experiments.experiment import Experiment, Options, Row, Run, Verdict, column, values, where
from fxteleport.tools.experiments.statistics import bootstrap, trend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIGMAS = tuple(round(0.1 * i, 1) for i in range(1, 10))
_MEASURED = 1e-20  # smaller squared gradients do not count in a ratio


def grid(options: Options) -> list[Run]:
    """A run for each network and sigma: 20 teleportations each (an MLP: 100, for the theory)."""
    sets = (options.data,) if options.preset != "paper" else ("cifar10", "cifar100")
    return [
        {
            "data": name, "data_root": options.data_root, "model": model, "activation": activation, "sigma": sigma,
            "seed": seed, "landscape": "intra", "batch": options.pick(16, 64, 256),
            "size": options.pick(8, 8, 32) if model == "resnet18" else 32,
            "times": options.pick(5, 100 if model.startswith("mlp") else 20, 100 if model.startswith("mlp") else 20),
        }
        for name in sets
        for model in options.models
        or options.pick(("mlp",), ("mlp", "resnet18"), ("mlp", *networks.CONVOLUTIONAL))
        for activation in networks.activations(model, options.activations)
        for seed in options.seeds(1, 1, 1)
        for sigma in options.sigmas or options.pick((0.5, 0.9), _SIGMAS, _SIGMAS)
    ]  # fmt: skip


def measure(run: Run) -> list[Row]:
    """Per teleportation: the normalised gradient's change, the squared ratio, and the error of Theorem 5.1.

    Gradients are back-propagated through the emitted network for the first teleportation (and for all of an MLP's);
    the others follow from Theorem 5.1, whose elementwise error the first one measures.
    """
    images = data.load(run["data"], run["data_root"], networks.image_size(run["model"], run["size"]))
    network = networks.build(run["model"], images.shape, images.classes, run["activation"], seed=run["seed"])
    network = network.double().train()
    x, y = images.x[: run["batch"]].double(), images.y[: run["batch"]]
    loss = sgd.cross_entropy(x, y)
    plan = ft.plan(network, x[:2], mode="full")
    own = {n: p.detach() for n, p in network.named_parameters()}
    slopes = gradients(network, loss)
    before = _norm(slopes) / _norm(own)
    rows: list[Row] = []
    for i in range(run["times"]):
        cob = plan.sample(run["sigma"], run["landscape"], seed=run["seed"] * 100_000 + i)
        point = plan.at(cob)
        expected = {n: point.teleported(n, g, -1) for n, g in slopes.items()}
        row: Row = {"teleportation": i, "before": before}
        if i == 0 or run["model"] in networks.MLPS:
            actual = gradients(plan.rewrite(cob).train(), loss)
            row["theorem_error"] = max(
                float((actual[n] - g).abs().max() / g.abs().max()) for n, g in expected.items() if g.any()
            )
        else:
            actual = expected
        row["after"] = _norm(actual) / _norm(point.weights)
        row["change"] = abs(row["after"] - before)
        ratio = squared_ratio(slopes, actual, point.scales)
        if ratio is not None:
            row["squared_ratio"] = ratio
        rows.append(row)
    return rows


def squared_ratio(before: dict[str, Tensor], after: dict[str, Tensor], scales: dict[str, Tensor]) -> float | None:
    """Mean squared ratio of gradients over the weights between teleported neurons; None where there are none."""
    ratios = []
    for name, scale in scales.items():
        if scale.ndim == 2 and bool((scale != scale[:1]).any()) and bool((scale != scale[:, :1]).any()):
            usable = before[name].square() > _MEASURED
            ratios.append((after[name][usable] / before[name][usable]).square())
    return float(torch.cat(ratios).mean()) if ratios and sum(f.numel() for f in ratios) else None


def theory(sigma: float) -> float:
    """The expected squared ratio (paper, Section 5)."""
    return (3 + sigma**2) / (3 * (1 - sigma**2))


def _norm(tensors: dict[str, Tensor]) -> float:
    return float(torch.stack([t.detach().square().sum() for t in tensors.values()]).sum().sqrt())


def judge(rows: list[Row]) -> list[Verdict]:
    """The change rises with sigma; the ratio is the theory's; the theorem holds elementwise."""
    verdicts: list[Verdict] = []
    keys = values(rows, "data", "model", "activation", "seed")
    for name, model, activation, seed in keys:
        own = where(rows, data=name, model=model, activation=activation, seed=seed)
        sigmas = values(own, "sigma")
        table = np.array([column(where(own, sigma=s), "change") for s in sigmas]).T
        rank = trend(table.tolist(), sigmas)
        verdicts.append(Verdict(
            "the normalised gradient changes more with larger sigma",
            f"rank correlation of sigma and the change, {model} on {name}", *rank, "interval above 0.5",
            rank[1] > 0.5, len(table)))  # fmt: skip
    measured = [r for r in rows if "squared_ratio" in r]
    if measured:
        sigmas = values(measured, "sigma")
        level = 1 - 0.05 / len(sigmas)  # all intervals at once
        gaps = [
            bootstrap([r["squared_ratio"] / theory(s) for r in where(measured, sigma=s)], confidence=level, draws=20000)
            for s in sigmas
        ]
        inside = [low <= 1 <= high for _, low, high in gaps]
        worst = max(gaps, key=lambda g: abs(g[0] - 1))
        verdicts.append(Verdict(
            "the expected squared gradient ratio is (3 + s^2) / (3 (1 - s^2))",
            f"measured over theory where it is furthest off; {sum(inside)} of {len(inside)} sigmas within", *worst,
            "1 within every interval (95% for all of them together)", all(inside), len(measured)))  # fmt: skip
    errors = bootstrap([r["theorem_error"] for r in rows if "theorem_error" in r], lambda t: float(t.max()))
    verdicts.append(Verdict(
        "gradients scale inversely to the weights (Theorem 5.1)", "largest relative elementwise error, float64",
        *errors, "below 1e-8", errors[0] < 1e-8, sum("theorem_error" in r for r in rows)))  # fmt: skip
    return verdicts


def draw(rows: list[Row], figure: Figure) -> None:
    """Left: the change of the normalised gradient by sigma, as in Fig. 6. Right: the squared ratio and its theory."""
    from matplotlib.ticker import FixedLocator, NullLocator

    left, right = figure.subplots(1, 2)
    for name, model, activation in values(rows, "data", "model", "activation"):
        own = where(rows, data=name, model=model, activation=activation)
        sigmas = values(own, "sigma")
        parts = np.array([bootstrap(column(where(own, sigma=s), "change")) for s in sigmas])
        left.plot(sigmas, parts[:, 0], marker="o", label=f"{model}, {name}")
        left.fill_between(sigmas, parts[:, 1], parts[:, 2], alpha=0.2)
    left.set_yscale("log")
    left.set_xlabel("CoB-range sigma")
    left.set_ylabel("|change of gradient norm / weight norm|")
    left.set_title("the normalised gradient changes more", size=10)
    left.legend()
    measured = [r for r in rows if "squared_ratio" in r]
    if measured:
        sigmas = values(measured, "sigma")
        parts = np.array([bootstrap(column(where(measured, sigma=s), "squared_ratio")) for s in sigmas])
        spread = [parts[:, 0] - parts[:, 1], parts[:, 2] - parts[:, 0]]
        right.errorbar(sigmas, parts[:, 0], spread, fmt="o", capsize=3, label="measured, 95% interval")
    line = np.linspace(0, max(values(rows, "sigma")), 200)
    right.plot(line, [theory(s) for s in line], color="black", label="(3 + s²) / (3 (1 - s²))")
    right.set_yscale("log")
    right.yaxis.set_major_locator(FixedLocator([1, 1.5, 2, 3, 4, 5, 7, 10, 20]))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_locator(NullLocator())
    right.set_ylim(bottom=0.9)
    right.set_xlabel("CoB-range sigma")
    right.set_ylabel("mean squared ratio of gradients")
    right.set_title("as Theorem 5.1 says", size=10)
    right.legend()


EXPERIMENT = Experiment("gradients", "Figs. 6, 18", grid, measure, judge, draw)
