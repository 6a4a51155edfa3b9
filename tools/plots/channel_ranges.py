"""The range of each output channel's weights before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fxteleport.tools.checking.session import Run
from fxteleport.tools.plots.palette import AFTER, BEFORE
from fxteleport.tools.plots.panels import PANELS, chosen, outer_labels, panels, small_panel, spaced, title, weight_pairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHANNELS = 1500  # channels of a panel: more would not be told apart


def ranges(done: Run, layers: Sequence[str] = ()) -> Figure:
    """The smallest and the largest weight of each output channel before and after, channels sorted by range."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    pairs = weight_pairs(done)
    shown = chosen(pairs, layers, PANELS)
    figure, axes = panels(len(shown), -(-len(shown) // 3), columns=3, height=1.9)
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
        small_panel(axis, name)
    outer_labels(axes, "output channel, by range before", "min to max of weights", 3)
    handles: list[Any] = [Patch(color=BEFORE, alpha=0.55, linewidth=0)]
    handles += [Line2D([], [], color=AFTER, marker=m, linestyle="none") for m in "^v"]
    labels = ["before: smallest to largest weight", "after: largest", "after: smallest"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle(title(done, "ranges of channels", len(shown), len(pairs), "layers"))
    return figure
