"""What `inspect` writes to files, or opens: a page, a graph for Model Explorer, pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from fxteleport.plan.plan import Plan
from fxteleport.tools.checking.session import Run
from fxteleport.tools.export.html import write_html
from fxteleport.tools.export.model_explorer import explore, write_explorer
from fxteleport.tools.models.request import Loaded
from fxteleport.tools.options.outputs import Outputs
from fxteleport.tools.plots.draw import draw, require_drawable
from fxteleport.tools.plots.feature_maps import shown_nodes


def require_pictures(outputs: Outputs, plan: Plan, loaded: Loaded) -> None:
    """Raise InputError where a picture is asked for that this network does not have."""
    if outputs.plot is not None:
        require_drawable(outputs.plot, plan, loaded, outputs.image, tuple(outputs.layer or ()))


def kept(outputs: Outputs, plan: Plan, loaded: Loaded) -> Collection[str]:
    """The nodes whose values the files show: the check is to keep them."""
    features = outputs.html is not None or (outputs.plot == "features" and outputs.image is None and not outputs.layer)
    return shown_nodes(plan, loaded) if features else ()


def write(outputs: Outputs, done: Run) -> Iterator[Path]:
    """Write the files that are asked for; each path as it is written."""
    if outputs.html is not None:
        write_html(done, outputs.html)
        yield outputs.html
    if outputs.explorer is not None:
        write_explorer(done, outputs.explorer)
        yield outputs.explorer
    if outputs.plot is not None and outputs.output is not None:
        draw(outputs.plot, done, outputs.output, outputs.image, tuple(outputs.layer or ()))
        yield outputs.output


def show(outputs: Outputs, done: Run) -> None:
    """Open the network in Model Explorer, where that is asked for; comes back when it is closed."""
    if outputs.explore:
        explore(done)
