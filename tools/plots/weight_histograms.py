"""Histograms of the weights before and after: all of them, and layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fxteleport.tools.checking.session import Run
from fxteleport.tools.plots.palette import AFTER, BEFORE
from fxteleport.tools.plots.panels import (
    COLUMNS,
    PANELS,
    chosen,
    outer_labels,
    panels,
    small_panel,
    title,
    weight_pairs,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS, _FEWEST = 121, 11  # both odd: a bin lies about 0
_SAMPLE = 1 << 15  # elements of a large tensor from which its limits are estimated
_COUNTED = 1 << 21  # weights of a panel: of more, every k-th is counted


def weights(done: Run, layers: Sequence[str] = ()) -> Figure:
    """Histograms of the weights before and after: all of them above, layer by layer beneath."""
    pairs = weight_pairs(done)
    shown = chosen(pairs, layers, PANELS)
    rows = -(-len(shown) // COLUMNS)
    figure, axes = panels(len(shown), rows, above=True)
    _histogram(axes[0], list(pairs.values()))
    axes[0].set_title(f"all {len(pairs)} weights, {sum(a.numel() for a, _ in pairs.values()):,} elements")
    axes[0].legend(loc="upper right")
    axes[0].set(xlabel="weight", ylabel="density")
    for axis, name in zip(axes[1:], shown, strict=True):
        _histogram(axis, [pairs[name]])
        small_panel(axis, name)
    outer_labels(axes[1:], "weight", "density")
    figure.suptitle(title(done, "weights before and after", len(shown), len(pairs), "layers"))
    return figure


def _histogram(axis: Axes, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    limit = max(_limit(t) for pair in pairs for t in pair) or 1.0
    elements = sum(a.numel() for a, _ in pairs)
    stride = max(1, elements // _COUNTED)
    pairs = [(a.reshape(-1)[::stride], b.reshape(-1)[::stride]) for a, b in pairs]
    bins = bins_for(elements)
    edges = np.linspace(-limit, limit, bins + 1)
    for side, (label, colour) in enumerate((("before", BEFORE), ("after", AFTER))):
        counts = sum(torch.histc(pair[side], bins, -limit, limit).double().numpy() for pair in pairs)
        density = counts / (sum(pair[side].numel() for pair in pairs) * (edges[1] - edges[0]))
        filled: dict[str, Any] = {"fill": True, "alpha": 0.35} if side == 0 else {"fill": False, "linewidth": 1.1}
        axis.stairs(np.maximum(density, 0), edges, color=colour, label=label, **filled)
    axis.set_yscale("log", subs=[])  # minor ticks take most of the time to draw
    axis.set_xlim(-limit, limit)


def bins_for(elements: int) -> int:
    """An odd number of bins for so many values (Rice's rule: twice the cube root)."""
    return min(_BINS, max(_FEWEST, int(2 * float(np.cbrt(elements))))) | 1


def _limit(x: Tensor) -> float:
    """The magnitude that 99.9 % of a tensor keep within."""
    some = x.reshape(-1)[:: max(1, x.numel() // _SAMPLE)].abs()
    return float(torch.quantile(some, 0.999, interpolation="higher")) if some.numel() else 0.0
