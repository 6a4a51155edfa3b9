"""What the plots of a teleportation share: which layers are shown, the panels of a figure, titles and names."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from fxteleport.models.zoo import suggestion
from fxteleport.passes.errors import InputError
from fxteleport.tools.checking.session import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS, COLUMNS = 12, 4  # of a figure


def weight_pairs(done: Run) -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> a weight (two axes or more, several outputs) before and after, as float32 on the CPU."""
    after = dict(done.network.named_parameters())
    before = weights_of(done.loaded.model)
    held = {
        name.removesuffix(".weight"): (_plain(p), _plain(after[name])) for name, p in before.items() if name in after
    }
    return {name: pair for name, pair in held.items() if all(map(_finite, pair))}


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A network's weights by name: parameters with two axes or more and several outputs."""
    named = model.named_parameters()
    return {n: p for n, p in named if p.ndim > 1 and len(p) > 1 and p.numel() and p.is_floating_point()}


def _finite(x: Tensor) -> bool:
    """Whether all of a tensor is; its extremes tell, as a NaN is both."""
    return all(bool(end.isfinite()) for end in x.aminmax())


def _plain(x: Tensor) -> Tensor:
    return x.detach().float().cpu()


def chosen(held: dict[str, Any], layers: Sequence[str], most: int) -> list[str]:
    """The names that are asked for, or at most so many over the whole depth."""
    names = list(held)
    require_layers(names, layers)
    if layers:
        return [name for name in names if any(_within(name, layer) for layer in layers)]
    return [names[i] for i in spaced(len(names), most)]


def require_layers(names: Sequence[str], layers: Sequence[str]) -> None:
    """Raise InputError unless there is something to draw, and in each of these layers."""
    if not names:
        raise InputError("this network has nothing to draw here: no weight, or no CoB that is free")
    for layer in layers:
        if not any(_within(name, layer) for name in names):
            raise InputError(f"there is no layer '{layer}' to draw{suggestion(layer, with_owners(names))}")


def with_owners(names: Iterable[str]) -> list[str]:
    """The names with those of the modules that they are in, outermost first."""
    parts = [name.split(".") for name in names]
    return list(dict.fromkeys(".".join(p[: i + 1]) for p in parts for i in range(len(p))))


def spaced(n: int, most: int) -> list[int]:
    """At most so many of 0 .. n - 1, first and last included, evenly spaced."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, most))})


def _within(name: str, layer: str) -> bool:
    return name == layer or name == f"{layer}.weight" or name.startswith(f"{layer}.")


def panels(
    n: int, rows: int, columns: int = COLUMNS, height: float = 1.45, above: bool = False
) -> tuple[Figure, list[Axes]]:
    """Axes in rows, perhaps with one over the whole width above them."""
    from matplotlib.figure import Figure

    top = 1.8 if above else 0.0
    figure = Figure(figsize=(7.2, 0.8 + top + height * rows))
    grid = figure.add_gridspec(rows + above, columns, height_ratios=[top] * above + [height] * rows)
    axes = [figure.add_subplot(grid[0, :])] if above else []
    axes += [figure.add_subplot(grid[above + i // columns, i % columns]) for i in range(n)]
    return figure, axes


def small_panel(axis: Axes, name: str) -> None:
    """The title and the ticks of one panel of many."""
    from matplotlib.ticker import MaxNLocator

    axis.set_title(short(name), fontsize=8)
    axis.tick_params(labelsize=7)
    axis.xaxis.set_major_locator(MaxNLocator(4))


def outer_labels(axes: Sequence[Axes], x: str, y: str, columns: int = COLUMNS) -> None:
    """Name the axes of the panels at the left and at the bottom of a figure."""
    for i, axis in enumerate(axes):
        if i % columns == 0:
            axis.set_ylabel(y, fontsize=8)
        if i + columns >= len(axes):
            axis.set_xlabel(x, fontsize=8)


def title(done: Run, what: str, shown: int, total: int, unit: str) -> str:
    """A figure's title: the network, what is drawn, the law, and how much of it is shown."""
    s = done.settings
    law = f"{s.landscape}, range {s.cob_range:g}{', powers of two' if s.exact else ''}, mode {s.mode}"
    part = f"; {shown} of {total} {unit}" if shown < total else ""
    return wrapped(f"{plain(done.loaded.spec)}: {what} ({law}{part})")


def wrapped(text: str) -> str:
    """A figure's title in lines that its width holds."""
    return textwrap.fill(text, 90)


def short(name: str, width: int = 26) -> str:
    """A name from its end, where it is too long for a panel."""
    return plain(name if len(name) <= width else "..." + name[3 - width :])


def plain(name: str) -> str:
    """A name that matplotlib does not take for a formula."""
    return name.replace("$", r"\$")
