"""E6 to E8, Figs. 7 to 9: one teleportation at initialisation speeds up gradient descent. E9, Fig. 10: controls do not.

`pseudo` runs the same with a random move of the same length, and with a re-initialisation of the same distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

import fxteleport as ft
from fxteleport.landscape import baselines, objectives
from fxteleport.landscape.objectives import Objective
from fxteleport.plan.teleported_point import Network
from fxteleport.tools.experiments import data, networks, sgd
from fxteleport.tools.experiments.experiment import Experiment, Options, Row, Run, Verdict, column, values, where
from fxteleport.tools.experiments.statistics import bootstrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("plain", "teleported", "pseudo", "reinit")
LABELS = {
    "plain": "not teleported", "teleported": "teleported", "pseudo": "pseudo-teleported",
    "reinit": "re-initialised, same distribution",
}  # fmt: skip
_SETTING = ("data", "model", "activation", "init", "momentum", "lr")


def grid(options: Options, methods: Sequence[str] = METHODS[:2]) -> list[Run]:
    """The paper's grid: networks, learning rates, with and without momentum, 5 seeds, each with every method."""
    sets = (options.data,) if options.preset != "paper" else ("cifar10", "cifar100")
    return [
        {
            "data": name, "data_root": options.data_root, "model": model, "activation": activation, "init": init,
            "momentum": momentum, "lr": lr, "seed": seed, "method": method, "sigma": sigma, "landscape": "inter",
            "at": _at(options), "every": options.every, "probability": options.probability,
            "candidates": options.candidates, "metric": options.metric, "state": options.state,
            "epochs": options.epochs or options.pick(2, 40, 100), "batch": options.pick(32, 256, 256),
            "limit": options.pick(128, None, None),
        }
        for name in sets
        for model in options.models or options.pick(("mlp128",), ("mlp",), ("mlp", *networks.CONVOLUTIONAL))
        for activation in networks.activations(model, options.activations)
        for init in options.inits or ("default",)
        for momentum in options.pick((0.9,), (0.0, 0.9), (0.0, 0.9))
        for lr in options.lrs or options.pick((0.01,), (0.01, 0.001, 0.0001), (0.01, 0.001, 0.0001))
        for sigma in options.sigmas or (0.9,)
        for seed in options.seeds(2, 5, 5)
        for method in methods
    ]  # fmt: skip


def measure(run: Run) -> list[Row]:
    """The curve of one training: losses and accuracy by epoch."""
    images = data.load(run["data"], run["data_root"], networks.image_size(run["model"]), run["limit"])
    network = networks.build(
        run["model"], images.shape, images.classes, run["activation"], run["init"], seed=run["seed"]
    )
    live = ft.Teleportable(network, images.x[:2])
    optimizer = torch.optim.SGD(live.parameters(), lr=run["lr"], momentum=run["momentum"])
    metric = METRICS[run["metric"]](images, run) if run["metric"] else None
    schedule = ft.Teleport(
        live, optimizer, at=run["at"], every=run["every"], probability=run["probability"], metric=metric,
        candidates=run["candidates"], cob_range=run["sigma"], landscape=run["landscape"], state=run["state"],
        seed=run["seed"],
    )  # fmt: skip

    def before_epoch(epoch: int) -> None:
        if run["method"] == "teleported":
            schedule(epoch)
        elif run["method"] != "plain" and schedule.due(epoch):
            imitate(live, schedule.draw(epoch), run["method"], run["seed"])

    return sgd.train(live, optimizer, images, run["epochs"], run["batch"], run["seed"], before_epoch)


def imitate(live: ft.Teleportable, cob: ft.ChangeOfBasis, method: str, seed: int) -> None:
    """Change the weights by a control: a random move of the same length, or a re-initialisation of the same sizes."""
    before = {n: p.detach().clone() for n, p in live.network.named_parameters()}
    after = {n: w.detach() for n, w in live.at(cob).weights.items()}
    far = method == "pseudo"
    start = baselines.pseudo_teleport(before, after, seed) if far else baselines.reinitialize(after, seed)
    with torch.no_grad():
        for name, parameter in live.network.named_parameters():
            parameter.copy_(start[name])


def _at(options: Options) -> list[int]:
    """At initialisation, unless another schedule is asked for."""
    return [] if options.every or options.probability else [0]


def _probe(images: data.Data) -> Callable[[Network], torch.Tensor]:
    """The loss on a fixed batch, for the choice among candidates."""
    return sgd.cross_entropy(images.x[:256], images.y[:256])


METRICS: dict[str, Callable[[data.Data, Run], Objective]] = {
    "gradient-norm": lambda images, run: objectives.negative(objectives.gradient_norm(_probe(images))),  # the largest
    "lookahead": lambda images, run: objectives.lookahead(_probe(images), run["lr"]),
}


def area(rows: list[Row]) -> float:
    """The area under an accuracy curve: its mean over epochs, the start left out."""
    return float(np.mean([r["test_accuracy"] for r in rows if r["epoch"] > 0]))


def gains(rows: list[Row], method: str) -> dict[tuple[str | float, ...], list[float]]:
    """By setting: how much larger the area is than not teleported, seed by seed."""
    curves: dict[tuple[object, ...], list[Row]] = {}
    for r in rows:
        curves.setdefault((*(r[k] for k in _SETTING), r["seed"], r["method"]), []).append(r)
    by_setting: dict[tuple[str | float, ...], list[float]] = {}
    for key, curve in curves.items():
        plain = curves.get((*key[:-1], "plain"))
        if key[-1] == method and plain:
            by_setting.setdefault(key[:-2], []).append(area(curve) - area(plain))  # type: ignore[arg-type]
    return by_setting


def judge(rows: list[Row]) -> list[Verdict]:
    """Over all settings, then for each network, activation and initialisation with each learning rate."""
    all_gains = gains(rows, "teleported")
    claim = "one teleportation at initialisation speeds up gradient descent"
    text = "mean test accuracy over all epochs, teleported less not"
    verdicts = [_faster(claim, f"{text}: all {len(all_gains)} settings", [x for v in all_gains.values() for x in v])]
    if len(all_gains) > 1:
        for key, gain in all_gains.items():
            setting = dict(zip(_SETTING, key, strict=True))
            name = f"{setting['model']}, {setting['activation']}, init {setting['init']}, {setting['data']}"
            verdicts.append(
                _faster(claim, f"{text}: {name}, lr {setting['lr']:g}, momentum {setting['momentum']:g}", gain)
            )
    return verdicts


def judge_controls(rows: list[Row]) -> list[Verdict]:
    """Neither control gains, and teleportation does."""
    verdicts = []
    for method in METHODS[1:]:
        gain = bootstrap([x for v in gains(rows, method).values() for x in v])
        n = sum(len(v) for v in gains(rows, method).values())
        text = f"mean test accuracy over all epochs, {LABELS[method]} less not"
        if method == "teleported":
            verdicts.append(Verdict("teleportation helps", text, *gain, "interval above 0", gain[1] > 0, n))
        else:
            claim = f"{LABELS[method]}: does not help"
            verdicts.append(Verdict(claim, text, *gain, "interval not above 0", gain[1] <= 0, n))
    return verdicts


def _faster(claim: str, statistic: str, gain: list[float]) -> Verdict:
    interval = bootstrap(gain)
    return Verdict(claim, statistic, *interval, "interval above 0", interval[1] > 0, len(gain))


def draw(rows: list[Row], figure: Figure) -> None:
    """Accuracy curves as in Fig. 7, a panel for each setting: mean over seeds, standard error."""
    settings = values(rows, "momentum", "lr")
    groups = values(rows, "data", "model", "activation", "init")
    columns = min(3, len(settings))
    lines = -(-len(settings) // columns)
    figure.set_size_inches(max(6.0, 3.0 * columns), 2.7 * lines * len(groups) + 0.6)
    axes = figure.subplots(lines * len(groups), columns, squeeze=False, sharex=True, sharey=True)
    for axis in axes.flat:
        axis.set_axis_off()
    for group, (name, model, activation, init) in enumerate(groups):
        for axis, (momentum, lr) in zip(axes[group * lines : (group + 1) * lines].flat, settings, strict=False):
            axis.set_axis_on()
            own = where(rows, data=name, model=model, activation=activation, init=init, momentum=momentum, lr=lr)
            for color, method in enumerate(METHODS):
                curve = where(own, method=method)
                if curve:
                    plot(axis, curve, LABELS[method], f"C{color}")
            axis.set_title(f"{model}, {activation}, init {init}, {name}\nlr {lr:g}, momentum {momentum:g}", size=8)
            axis.set_ylim(0, 1)
            axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("test accuracy")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, ncols=2, loc="outside upper center")


def plot(axis: object, curve: list[Row], label: str, color: str) -> None:
    """The mean accuracy over runs by epoch, with its standard error."""
    epochs = values(curve, "epoch")
    parts = [column(where(curve, epoch=e), "test_accuracy") for e in epochs]
    mean = np.array([np.mean(p) for p in parts])
    error = np.array([np.std(p) / max(1, len(p)) ** 0.5 for p in parts])
    axis.plot(epochs, mean, color=color, label=label)  # type: ignore[attr-defined]
    axis.fill_between(epochs, mean - error, mean + error, color=color, alpha=0.2)  # type: ignore[attr-defined]


def control_grid(options: Options) -> list[Run]:
    """E9: with both controls; in the laptop preset with momentum only, and without the smallest learning rate."""
    runs = grid(replace(options, lrs=options.lrs or options.pick((), (0.01, 0.001), ())), METHODS)
    return runs if options.preset == "paper" else [r for r in runs if r["momentum"]]


EXPERIMENT = Experiment("training", "Figs. 7 to 9, 19 to 22", grid, measure, judge, draw)
PSEUDO = Experiment("pseudo", "Figs. 10, 23", control_grid, measure, judge_controls, draw)
