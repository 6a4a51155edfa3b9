"""The options of `inspect` for files: a page, a graph for Model Explorer, pictures."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from fxteleport.atomic_files import require_writable
from fxteleport.passes.errors import InputError
from fxteleport.tools.options.dataclass_options import option

PICTURES = ("weights", "cob", "ranges", "features")
_FORMATS = (".png", ".svg")
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
        str | None, option("--plot", _PICTURE, "Draw before and after (with --output).", "|".join(PICTURES))
    ] = None
    output: Annotated[Path | None, option("--output", _PICTURE, "Where the plot goes: .png or .svg.", "FILE")] = None
    image: Annotated[Path | None, option("--image", _PICTURE, "Image for --plot features.", "FILE")] = None
    layer: Annotated[list[str] | None, option("--layer", _PICTURE, "Module to plot; may be repeated.", "NAME")] = None

    def __post_init__(self) -> None:
        if (self.plot is None) != (self.output is None):
            raise InputError("--plot KIND and --output FILE go together: one says what to draw, the other where")
        if self.plot is not None and self.output is not None:
            check_picture(self.plot, self.output)
        if self.image is not None and self.plot != "features":
            raise InputError("--image is for --plot features")
        if self.image is not None and not self.image.is_file():
            raise InputError(f"there is no image '{self.image}'")
        if self.layer and self.plot is None:
            raise InputError("--layer is for --plot")
        for path in (self.html, self.explorer):
            if path is not None:
                require_writable(path)
        if self.explorer is not None and self.explorer.suffix != ".json":
            raise InputError(f"Model Explorer reads .json files; got '{self.explorer}'")
        if self.explore and find_spec("model_explorer") is None:
            raise InputError("Model Explorer is not installed: pip install 'fxteleport[explorer]'")

    @property
    def any(self) -> bool:
        """True where a teleportation is needed."""
        return bool(self.html or self.explorer or self.explore or self.plot)


def check_picture(kind: str, path: Path) -> None:
    """Check a picture's kind and file before any work is done.

    Raises:
        InputError: another kind or ending, or matplotlib is not installed.
        CheckpointError: the path cannot be written.
    """
    if kind not in PICTURES:
        raise InputError(f"there is no picture '{kind}': choose one of {', '.join(PICTURES)}")
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"a picture is a .png or a .svg file; got '{path}'")
    require_writable(path)
    require_matplotlib()


def require_matplotlib() -> None:
    """Raise InputError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("pictures need matplotlib: pip install matplotlib") from None
