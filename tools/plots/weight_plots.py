"""Plots of weights and CoBs: histograms, distributions by layer, ranges of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fxteleport.passes.errors import InputError
from fxteleport.tools.checking.session import Run
from fxteleport.tools.plots.palette import AFTER, BEFORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]
_GRID, _ROWS, _COLUMNS = 12, 40, 4  # panels of a grid, rows of a distribution, columns of a grid
_BINS = 121
_CHANNELS = 1500  # channels of a panel: more would not be told apart
_SAMPLE = 1 << 20  # elements that stand for all of a large tensor where its limits are looked for


# -- weights ---------------------------------------------------------------------------------------------


def weights(done: Run, layers: Sequence[str] = ()) -> Figure:
    """Histograms of the weights before and after: all of them above, layer by layer beneath."""
    pairs = _weights(done)
    shown = _chosen(pairs, layers, _GRID)
    rows = -(-len(shown) // _COLUMNS)
    figure, axes = _grid(len(shown), rows, above=True)
    _histogram(axes[0], list(pairs.values()))
    axes[0].set_title(f"all {len(pairs)} weights, {sum(a.numel() for a, _ in pairs.values()):,} elements")
    axes[0].legend(loc="upper right")
    axes[0].set(xlabel="weight", ylabel="density")
    for axis, name in zip(axes[1:], shown, strict=True):
        _histogram(axis, [pairs[name]])
        _small(axis, name)
    _outer_labels(axes[1:], "weight", "density")
    figure.suptitle(_title(done, "weights before and after", len(shown), len(pairs), "layers"))
    return figure


def _histogram(axis: Axes, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    limit = max(_limit(t) for pair in pairs for t in pair) or 1.0
    edges = np.linspace(-limit, limit, _BINS + 1)
    for side, (label, colour) in enumerate((("before", BEFORE), ("after", AFTER))):
        counts = sum(torch.histc(pair[side], _BINS, -limit, limit).double().numpy() for pair in pairs)
        density = counts / (sum(pair[side].numel() for pair in pairs) * (edges[1] - edges[0]))
        filled: dict[str, Any] = {"fill": True, "alpha": 0.35} if side == 0 else {"fill": False, "linewidth": 1.1}
        axis.stairs(np.maximum(density, 0), edges, color=colour, label=label, **filled)
    axis.set_yscale("log", subs=[])  # minor ticks take most of the time to draw
    axis.set_xlim(-limit, limit)


def _limit(x: Tensor) -> float:
    """The magnitude that 99.9 % of a tensor keep within."""
    some = x.reshape(-1)[:: max(1, x.numel() // _SAMPLE)].abs()
    return float(torch.quantile(some, 0.999, interpolation="higher")) if some.numel() else 0.0


# -- CoB -------------------------------------------------------------------------------------------------


def cob(done: Run, layers: Sequence[str] = ()) -> Figure:
    """The CoB of each layer's neurons: a dot a neuron, the middle half as a bar, the median as a line."""
    held = _cob_of_layers(done)
    shown = _chosen(held, layers, _ROWS)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 1.3 + 0.19 * len(shown)))
    axis = figure.add_subplot()
    random = np.random.default_rng(2012)  # not a seed that a CoB is likely to be drawn with
    for row, name in enumerate(shown):
        tau = held[name]
        dots = tau[:: max(1, len(tau) // 400)]
        axis.scatter(dots, row + random.uniform(-0.32, 0.32, len(dots)), s=2.5, color=BEFORE, alpha=0.5, linewidths=0)
        for part in (tau[tau < 0], tau[tau > 0]):
            if len(part):
                low, middle, high = np.quantile(part, (0.25, 0.5, 0.75), method="nearest")
                axis.plot((low, high), (row, row), color=AFTER, linewidth=1.3, solid_capstyle="butt")
                axis.plot((middle, middle), (row - 0.36, row + 0.36), color=AFTER, linewidth=1.3)
    _cob_axis(axis, np.concatenate([held[n] for n in shown]))
    axis.set_yticks(range(len(shown)), [f"{_short(n, 44)}  ({len(held[n])})" for n in shown], fontsize=7)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.set_ylabel("layer (neurons), first to last")
    figure.suptitle(_title(done, "CoB by layer", len(shown), len(held), "layers"))
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
    found = done.plan
    tau = found.tau(done.cob).detach().cpu().numpy()
    kinds = np.array([g.kind != "pinned" for g in found.groups] + [False])
    moves = kinds[found.grouping.of]
    paths = {n.name: str(n.target) for n in found.captured.graph.nodes if n.op == "call_module"}
    held: dict[str, list[Array]] = {}
    for vector in found.constrained.system.vectors:
        own = slice(vector.start, vector.start + vector.size)
        if moves[own].any():
            name = vector.origin.node
            held.setdefault(paths.get(name, name).removesuffix(".weight"), []).append(tau[own][moves[own]])
    return {name: np.concatenate(parts) for name, parts in held.items()}


# -- ranges ----------------------------------------------------------------------------------------------


def ranges(done: Run, layers: Sequence[str] = ()) -> Figure:
    """The smallest and the largest weight of each output channel before and after, channels sorted by range."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    pairs = _weights(done)
    shown = _chosen(pairs, layers, _GRID)
    figure, axes = _grid(len(shown), -(-len(shown) // 3), columns=3, height=1.9)
    for axis, name in zip(axes, shown, strict=True):
        before, after = (t.reshape(len(t), -1) for t in pairs[name])
        order = (before.amax(1) - before.amin(1)).argsort()
        at = np.array(spaced(len(order), _CHANNELS))
        order = order[torch.from_numpy(at)]
        low, high, new_low, new_high = (t[order].numpy() for w in (before, after) for t in (w.amin(1), w.amax(1)))
        axis.fill_between(at, low, high, step="mid", color=BEFORE, alpha=0.55, linewidth=0)
        size = float(np.clip(400 / len(at), 0.6, 8))
        axis.scatter(at, new_high, s=size, color=AFTER, marker="^", linewidths=0)
        axis.scatter(at, new_low, s=size, color=AFTER, marker="v", linewidths=0)
        axis.axhline(0, color="black", linewidth=0.5)
        axis.set_xlim(-0.5, max(at) + 0.5)
        _small(axis, name)
    _outer_labels(axes, "output channel, by range before", "min to max of weights", 3)
    handles: list[Any] = [Patch(color=BEFORE, alpha=0.55, linewidth=0)]
    handles += [Line2D([], [], color=AFTER, marker=m, linestyle="none") for m in "^v"]
    labels = ["before: smallest to largest weight", "after: largest", "after: smallest"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle(_title(done, "ranges of channels", len(shown), len(pairs), "layers"))
    return figure


# -- what they share -------------------------------------------------------------------------------------


def _weights(done: Run) -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> a weight (two axes or more, several outputs) before and after, as float32 on the CPU."""
    after = dict(done.network.named_parameters())
    held = {
        name.removesuffix(".weight"): (_plain(p), _plain(after[name]))
        for name, p in done.loaded.model.named_parameters()
        if p.ndim > 1 and len(p) > 1 and p.numel() and p.is_floating_point() and name in after
    }
    return {name: pair for name, pair in held.items() if all(bool(t.isfinite().all()) for t in pair)}


def _plain(x: Tensor) -> Tensor:
    return x.detach().float().cpu()


def _chosen(held: dict[str, Any], layers: Sequence[str], most: int) -> list[str]:
    """The names that are asked for, or at most so many over the whole depth."""
    names = list(held)
    if not names:
        raise InputError("this network has nothing to draw here: no weight, or no CoB that is free")
    for layer in layers:
        if not any(_within(name, layer) for name in names):
            from fxteleport.models.zoo import suggestion

            raise InputError(f"there is no layer '{layer}' to draw{suggestion(layer, names)}")
    if layers:
        return [name for name in names if any(_within(name, layer) for layer in layers)]
    return [names[i] for i in spaced(len(names), most)]


def spaced(n: int, most: int) -> list[int]:
    """At most so many of 0 .. n - 1, first and last included, evenly spaced."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, most))})


def _within(name: str, layer: str) -> bool:
    return name == layer or name == f"{layer}.weight" or name.startswith(f"{layer}.")


def _grid(
    n: int, rows: int, columns: int = _COLUMNS, height: float = 1.45, above: bool = False
) -> tuple[Figure, list[Axes]]:
    """Axes in rows, perhaps with one over the whole width above them."""
    from matplotlib.figure import Figure

    top = 1.8 if above else 0.0
    figure = Figure(figsize=(7.2, 0.8 + top + height * rows))
    grid = figure.add_gridspec(rows + above, columns, height_ratios=[top] * above + [height] * rows)
    axes = [figure.add_subplot(grid[0, :])] if above else []
    axes += [figure.add_subplot(grid[above + i // columns, i % columns]) for i in range(n)]
    return figure, axes


def _small(axis: Axes, name: str) -> None:
    """The title and the ticks of one panel of many."""
    from matplotlib.ticker import MaxNLocator

    axis.set_title(_short(name), fontsize=8)
    axis.tick_params(labelsize=7)
    axis.xaxis.set_major_locator(MaxNLocator(4))


def _outer_labels(axes: Sequence[Axes], x: str, y: str, columns: int = _COLUMNS) -> None:
    for i, axis in enumerate(axes):
        if i % columns == 0:
            axis.set_ylabel(y, fontsize=8)
        if i + columns >= len(axes):
            axis.set_xlabel(x, fontsize=8)


def _title(done: Run, what: str, shown: int, total: int, unit: str) -> str:
    s = done.settings
    law = f"{s.landscape}, range {s.cob_range:g}{', powers of two' if s.exact else ''}, mode {s.mode}"
    part = f"; {shown} of {total} {unit}" if shown < total else ""
    return f"{plain(done.loaded.spec)}: {what} ({law}{part})"


def _short(name: str, width: int = 26) -> str:
    return plain(name if len(name) <= width else "..." + name[3 - width :])


def plain(name: str) -> str:
    """A name that matplotlib does not take for a formula."""
    return name.replace("$", r"\$")
