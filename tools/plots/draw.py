"""Pictures: the weights, the CoB and the features of a teleportation, for print.

| kind | shows |
|---|---|
| weights | histograms of the weights before and after: all of them, and layer by layer |
| cob | the CoB of each layer's neurons |
| ranges | the smallest and the largest weight of each output channel before and after |
| features | feature maps of an image before and after (paper, Fig. 2) |
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fxteleport.atomic_files import write_bytes
from fxteleport.plan.plan import Plan
from fxteleport.tools.checking.session import Run
from fxteleport.tools.models.request import Loaded
from fxteleport.tools.options.outputs import check_picture, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "fxteleport",  # the same picture is the same file
    "figure.titlesize": 10,
}


def draw(kind: str, done: Run, path: Path, image: Path | None = None, layers: Sequence[str] = ()) -> None:
    """Draw a picture into a PNG or SVG file, by the path's ending.

    Args:
        kind: "weights", "cob", "ranges" or "features".
        image: the image whose features are shown; None takes the run's own first input.
        layers: names of modules (everything in them is meant) or nodes; empty chooses some over the whole depth.

    Raises:
        InputError: another kind or ending, no such layer, nothing to draw, an image that cannot be read or used,
            or matplotlib is not installed.
        CheckpointError: the file cannot be written.
    """
    check_picture(kind, path)
    write_bytes(path, rendered(kind, done, path.suffix.lower().removeprefix("."), image, layers))


def require_drawable(kind: str, plan: Plan, loaded: Loaded, image: Path | None, layers: Sequence[str]) -> None:
    """Check a picture's layers and image once there is a plan, before a network is teleported.

    Raises:
        InputError: no such layer, or an image that cannot be read or used.
    """
    from fxteleport.tools.plots import cob_by_layer, feature_maps, panels

    if kind == "features":
        feature_maps.require_features(plan, loaded, image, layers)
    elif kind == "cob":
        panels.require_layers(cob_by_layer.layers_of(plan), layers)
    else:
        panels.require_layers(list(panels.weights_of(loaded.model)), layers)


def rendered(
    kind: str, done: Run, form: str = "png", image: Path | None = None, layers: Sequence[str] = (), dpi: int = 150
) -> bytes:
    """The picture as the bytes of a "png" or "svg" file; see `draw`."""
    require_matplotlib()
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        figure = _figure(kind, done, image, layers)
        held = io.BytesIO()
        if form == "png":
            _save_png(figure, held, dpi)
        else:
            figure.savefig(held, format=form, dpi=dpi, metadata={"Date": None} if form == "svg" else {"Software": None})
    return held.getvalue()


def _save_png(figure: Figure, held: io.BytesIO, dpi: int) -> None:
    """Lay out and draw in one pass; `savefig` would draw twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).save(held, "png", dpi=(dpi, dpi))


def _figure(kind: str, done: Run, image: Path | None, layers: Sequence[str]) -> Figure:
    from fxteleport.tools.plots import channel_ranges, cob_by_layer, feature_maps, weight_histograms

    if kind == "features":
        return feature_maps.features(done, image, layers)
    table = {"weights": weight_histograms.weights, "cob": cob_by_layer.cob, "ranges": channel_ranges.ranges}
    return table[kind](done, layers)
