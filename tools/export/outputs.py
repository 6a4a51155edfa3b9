"""What `inspect` writes to files, or opens: a page, a graph for Model Explorer, pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fxteleport.passes.errors import CheckpointError, InputError
from fxteleport.tools.checking.session import Run
from fxteleport.tools.options.dataclass_options import option

_PICTURE = "Pictures"
Html = Annotated[Path | None, option("--html", _PICTURE, "Write one self-contained page for a browser.", "FILE")]


@dataclass(frozen=True)
class Outputs:
    """What is written to files, or opened."""

    html: Html = None
    explorer: Annotated[
        Path | None, option("--explorer", _PICTURE, "Write a graph for Google's Model Explorer.", "FILE")
    ] = None
    explore: Annotated[bool, option("--explore", _PICTURE, "Open the graph in Model Explorer.")] = False
    plot: Annotated[
        str | None, option("--plot", _PICTURE, "Draw before and after (with --output).", "weights|cob|ranges|features")
    ] = None
    output: Annotated[Path | None, option("--output", _PICTURE, "Where the plot goes: .png or .svg.", "FILE")] = None
    image: Annotated[Path | None, option("--image", _PICTURE, "Image for --plot features.", "FILE")] = None
    layer: Annotated[list[str] | None, option("--layer", _PICTURE, "Module to plot; may be repeated.", "NAME")] = None

    def __post_init__(self) -> None:
        if (self.plot is None) != (self.output is None):
            raise InputError("--plot KIND and --output FILE go together: one says what to draw, the other where")
        if self.plot is not None and self.output is not None:
            from fxteleport.tools.plots.draw import check

            check(self.plot, self.output)
        if self.image is not None and self.plot != "features":
            raise InputError("--image is for --plot features")
        if self.image is not None and not self.image.is_file():
            raise InputError(f"there is no image '{self.image}'")
        if self.layer and self.plot is None:
            raise InputError("--layer is for --plot")
        for path in (self.html, self.explorer):
            if path is not None and not path.parent.is_dir():
                raise CheckpointError(f"cannot write '{path}': its folder does not exist")

    @property
    def any(self) -> bool:
        """True where a teleportation is needed."""
        return bool(self.html or self.explorer or self.explore or self.plot)

    def make(self, done: Run) -> Iterator[Path]:
        """Write the files; each is imported where it is used, since they need libraries of their own."""
        if self.html is not None:
            from fxteleport.tools.export.html import write_html

            write_html(done, self.html)
            yield self.html
        if self.explorer is not None:
            from fxteleport.tools.export.model_explorer import write_explorer

            write_explorer(done, self.explorer)
            yield self.explorer
        if self.plot is not None and self.output is not None:
            from fxteleport.tools.plots.draw import draw

            draw(self.plot, done, self.output, self.image, tuple(self.layer or ()))
            yield self.output

    def open(self, done: Run) -> None:
        """Show the network in Model Explorer; comes back when that is closed."""
        from fxteleport.tools.export.model_explorer import explore

        explore(done)
