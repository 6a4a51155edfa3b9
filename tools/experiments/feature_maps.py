"""E1, Fig. 2: teleportation changes the features while it preserves the function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx

import fxteleport as ft
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.rewrite.any_names import plain
from fxteleport.passes.rewrite.rewrite import original
from fxteleport.tools.experiments import data, networks, sgd
from fxteleport.tools.experiments.experiment import Experiment, Options, Row, Run, Verdict, column, values, where
from fxteleport.tools.experiments.statistics import bootstrap
from fxteleport.tools.plots.palette import DIVERGING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LAYERS, _CHANNELS = 3, 4  # shown in the figure


def grid(options: Options) -> list[Run]:
    """Networks with ReLU and tanh, trained, then teleported."""
    return [
        {
            "data": options.data, "data_root": options.data_root, "model": model, "activation": activation,
            "sigma": sigma, "seed": seed, "epochs": options.epochs or options.pick(1, 3, 10),
            "limit": options.pick(64, None, None), "size": options.pick(8, 16, 32), "landscape": "inter",
        }
        for model in options.models or options.pick(("resnet18",), ("resnet18",), ("resnet18",))
        for activation in networks.activations(model, options.activations, ("relu", "tanh"))
        for sigma in options.sigmas or (0.9,)
        for seed in options.seeds(1, 2, 5)
    ]  # fmt: skip


def measure(run: Run) -> list[Row]:
    """The change of each layer's features, and the pixels of a few channels, before and after.

    Features are the outputs of activation modules or, in a network without any, every tensor that a teleportation
    scales.
    """
    size = networks.image_size(run["model"], run["size"])
    images = data.load(run["data"], run["data_root"], size, run["limit"])
    network = networks.build(run["model"], images.shape, images.classes, run["activation"], seed=run["seed"])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    trained = sgd.train(network, optimizer, images, run["epochs"], 64, run["seed"])[-1]
    network = network.double().eval()
    x = images.test_x[:2].double()
    plan = ft.plan(network, x)
    cob = plan.sample(run["sigma"], run["landscape"], seed=run["seed"])
    before = Recorder(original(plan.captured).eval())
    after = Recorder(plan.rewrite(cob).eval())
    with torch.no_grad():
        out, moved_out = before.run(x), after.run(x)
    rows: list[Row] = [{"kind": "output", "change": float((moved_out - out).norm() / out.norm()), **trained}]
    hidden = [n for n, v in before.seen.items() if n in after.seen and v.ndim >= 2 and _moves(plan, n)]
    names = [n for n in hidden if n in before.activations] or hidden
    for depth, name in enumerate(names):
        a, b = before.seen[name], after.seen[name]
        rows.append({"kind": "feature", "layer": name, "depth": depth, "change": float((b - a).norm() / a.norm())})
    shown = [n for n in names if before.seen[n].ndim == 4 and before.seen[n].shape[-1] > 1]
    for name in [shown[i] for i in np.linspace(0, len(shown) - 1, min(_LAYERS, len(shown))).round().astype(int)]:
        rows += _pixels(name, before.seen[name][0], after.seen[name][0])
    return rows


def _moves(plan: ft.Plan, name: str) -> bool:
    """A tensor (and no parameter) that a group which is not pinned scales."""
    cob_map = plan.map_of(name)
    return isinstance(cob_map, CobMap) and any(plan.groups[u.group].kind != "pinned" for u in plan.uses(cob_map))


class Recorder(fx.Interpreter):
    """Runs a network and keeps the value of every node of the original's graph, in the emitted network's basis."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(plain(module), graph=module.graph)
        self.seen: dict[str, Tensor] = {}
        self.activations: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        name = info(n).restores or info(n).captured
        if name and isinstance(value, Tensor):
            self.seen[name] = value.clone()
            if n.op == "call_module" and isinstance(
                self.module.get_submodule(str(n.target)), tuple(type(f()) for f in networks.ACTIVATIONS.values())
            ):
                self.activations.add(name)
        return value


def _pixels(layer: str, before: Tensor, after: Tensor) -> list[Row]:
    return [
        {"kind": "pixel", "layer": layer, "channel": c, "y": i, "x": j,
         "before": float(before[c, i, j]), "after": float(after[c, i, j])}
        for c in range(min(_CHANNELS, len(before)))
        for i in range(before.shape[1])
        for j in range(before.shape[2])
    ]  # fmt: skip


def judge(rows: list[Row]) -> list[Verdict]:
    """Features move by a good part of their size, the output by rounding."""
    keys = values(where(rows, kind="output"), "model", "activation", "sigma", "seed")
    least, most = [], []
    for model, activation, sigma, seed in keys:
        own = where(rows, model=model, activation=activation, sigma=sigma, seed=seed)
        least.append(min(column(where(own, kind="feature"), "change")))
        most.append(max(column(where(own, kind="output"), "change")))
    value, low, high = bootstrap(least)
    worst = max(most)
    return [
        Verdict(
            "teleportation changes the features while it preserves the function",
            f"smallest relative change of a layer's features (the output changes by {worst:.1e} at most)",
            value, low, high, "interval above 0.1, and the output changes by less than 1e-9",
            low > 0.1 and worst < 1e-9, len(least),
        )
    ]  # fmt: skip


def draw(rows: list[Row], figure: Figure) -> None:
    """Feature maps of one image before and after, as in Fig. 2: a row of maps for each layer."""
    pixels = where(rows, kind="pixel")
    if not pixels:
        axes = figure.subplots()
        changes = where(rows, kind="feature")
        axes.bar([r["layer"] for r in changes], column(changes, "change"))
        axes.set_ylabel("relative change of the features")
        return
    model, seed, sigma = values(pixels, "model", "seed", "sigma")[0]
    rows = where(rows, model=model, seed=seed, sigma=sigma)
    activations = values(where(rows, kind="pixel"), "activation")
    figure.set_size_inches(2.0 * _CHANNELS, (1.05 * _LAYERS + 0.6) * len(activations))
    parts = figure.subfigures(len(activations), 1, squeeze=False)[:, 0]
    for part, activation in zip(parts, activations, strict=True):
        own = where(rows, kind="pixel", activation=activation)
        layers = list(dict.fromkeys(r["layer"] for r in own))
        widths = [*[1.0] * _CHANNELS, 0.2, *[1.0] * _CHANNELS]
        axes = part.subplots(len(layers), len(widths), squeeze=False, gridspec_kw={"width_ratios": widths})
        for axis in axes[:, _CHANNELS]:
            axis.set_axis_off()
        (change,) = column(where(rows, kind="output", activation=activation), "change")
        depths = {r["layer"]: r["depth"] + 1 for r in where(rows, kind="feature", activation=activation)}
        part.suptitle(
            f"{model}, {activation}: four channels of three layers before (left) and after (right) teleportation;\n"
            f"the output changes by {change:.0e} of its size (purple: positive, orange: negative)", size=9
        )  # fmt: skip
        for row, layer in zip(axes, layers, strict=True):
            for channel in range(_CHANNELS):
                shown = where(own, layer=layer, channel=channel)
                for offset, name in ((0, "before"), (_CHANNELS + 1, "after")):
                    axis = row[channel + offset]
                    axis.set_xticks([]), axis.set_yticks([])
                    if shown:
                        side = max(r["y"] for r in shown) + 1
                        axis.imshow(np.array(column(shown, name)).reshape(side, -1), cmap=DIVERGING, **_range(shown))
            row[0].set_ylabel(f"layer {depths[layer]} of {max(depths.values())}", size=8)


def _range(rows: list[Row]) -> dict[str, float]:
    """One colour scale, with 0 in the middle, for before and after."""
    most = max(max(abs(r["before"]), abs(r["after"])) for r in rows) or 1.0
    return {"vmin": -most, "vmax": most}


EXPERIMENT = Experiment("feature-maps", "Fig. 2", grid, measure, judge, draw)
