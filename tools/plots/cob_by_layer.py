"""The CoB of each layer's neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fxteleport.plan.plan import Plan
from fxteleport.tools.checking.session import Run
from fxteleport.tools.plots.palette import AFTER, BEFORE
from fxteleport.tools.plots.panels import chosen, short, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]
_ROWS = 40  # layers of a figure


def cob(done: Run, layers: Sequence[str] = ()) -> Figure:
    """The CoB of each layer's neurons: a dot a neuron, the middle half as a bar, the median as a line."""
    held = _cob_of_layers(done)
    shown = chosen(held, layers, _ROWS)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, max(2.8, 1.3 + 0.19 * len(shown))))
    axis = figure.add_subplot()
    random = np.random.default_rng(2012)  # a seed that is unlikely for a CoB
    for row, name in enumerate(shown):
        tau = held[name]
        dots = tau[:: max(1, len(tau) // 400)]
        size = min(12.0, max(2.5, 120 / len(dots)))  # few are drawn larger
        axis.scatter(dots, row + random.uniform(-0.32, 0.32, len(dots)), s=size, color=BEFORE, alpha=0.5, linewidths=0)
        for part in (tau[tau < 0], tau[tau > 0]):
            if len(part):
                low, middle, high = np.quantile(part, (0.25, 0.5, 0.75), method="nearest")
                axis.plot((low, high), (row, row), color=AFTER, linewidth=1.3, solid_capstyle="butt")
                axis.plot((middle, middle), (row - 0.36, row + 0.36), color=AFTER, linewidth=1.3)
    _cob_axis(axis, np.concatenate([held[n] for n in shown]))
    axis.set_yticks(range(len(shown)), [f"{short(n, 44)}  ({len(held[n])})" for n in shown], fontsize=7)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.set_ylabel("layer (neurons)")
    figure.suptitle(title(done, "CoB by layer", len(shown), len(held), "layers"))
    return figure


def _cob_axis(axis: Axes, tau: Array) -> None:
    axis.axvline(1, color="black", linewidth=0.8, linestyle="--")
    axis.text(1, 1.004, "1: unchanged", transform=axis.get_xaxis_transform(), ha="center", va="bottom", fontsize=7)
    size = np.abs(tau)
    if tau.min() > 0 and size.max() > max(2.5, 8 * size.min()):
        axis.set_xscale("log", base=2)
    elif size.max() > max(4.0, 16 * np.quantile(size, 0.05)):
        axis.set_xscale("symlog", base=2, linthresh=float(2.0 ** np.floor(np.log2(np.quantile(size, 0.02)))))
    if tau.min() < 0:
        axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlabel("CoB of a neuron; bar: middle half of each sign, line: its median")


def _cob_of_layers(done: Run) -> dict[str, Array]:
    """Layer -> the CoBs that its neurons were given, those that are pinned left out."""
    tau = done.plan.tau(done.cob).detach().cpu().numpy()
    return {name: np.concatenate([tau[at] for at in parts]) for name, parts in _neurons_of_layers(done.plan).items()}


def layers_of(plan: Plan) -> list[str]:
    """The layers that have neurons with a CoB of their own."""
    return list(_neurons_of_layers(plan))


def _neurons_of_layers(plan: Plan) -> dict[str, list[Array]]:
    """Layer -> the indices of its neurons in a CoB, without pinned ones."""
    kinds = np.array([g.kind != "pinned" for g in plan.groups] + [False])
    moves = kinds[plan.grouping.of]
    paths = {n.name: str(n.target) for n in plan.captured.graph.nodes if n.op == "call_module"}
    held: dict[str, list[Array]] = {}
    for vector in plan.constrained.system.vectors:
        own = slice(vector.start, vector.start + vector.size)
        if moves[own].any():
            name = vector.origin.node
            at = vector.start + np.flatnonzero(moves[own])
            held.setdefault(paths.get(name, name).removesuffix(".weight"), []).append(at)
    return held
