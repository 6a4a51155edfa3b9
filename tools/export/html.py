"""HTML: a teleportation as one file for the browser: summary, groups, the graph in colour, pictures. No network."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fxteleport.atomic_files import write_text
from fxteleport.passes.errors import InputError
from fxteleport.tools.checking.session import Run
from fxteleport.tools.export.page_data import data, summary
from fxteleport.tools.options.outputs import require_matplotlib
from fxteleport.tools.plots.draw import rendered

_PAGE = Path(__file__).with_name("page")
_CAPTIONS = {
    "weights": "Weights before and after.",
    "cob": "The change of basis (CoB) of each layer's neurons.",
    "ranges": "The range of each output channel's weights before and after.",
    "features": "Feature maps before and after.",
}


def write_html(done: Run, path: Path) -> None:
    """Write the page: one file that holds everything it shows.

    Raises:
        InputError: matplotlib, for the pictures, is not installed.
        CheckpointError: the file cannot be written.
    """
    write_text(path, page(done))


def page(done: Run) -> str:
    """The page as text: `page/page.html`, a Jinja template that escapes what it is given, but for our own files."""
    require_matplotlib()
    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.get_template("page.html").render(
        title=f"fxteleport: {done.loaded.spec}",
        css=_own("page.css"),
        js=_own("page.js"),
        summary=summary(done),
        pictures=[_picture(done, kind, caption) for kind, caption in _CAPTIONS.items()],
        data=data(done),
        version=_version(),
    )


@dataclass(frozen=True)
class Picture:
    """A picture of the page, or why there is none.

    Attributes:
        data: a PNG in base64.
    """

    kind: str
    caption: str
    data: str = ""
    why: str = ""


def _picture(done: Run, kind: str, caption: str) -> Picture:
    try:
        png = rendered(kind, done, "png", dpi=110)
    except InputError as why:  # the network takes no images, or has no weights or no free CoB
        return Picture(kind, caption, why=str(why))
    return Picture(kind, caption, base64.b64encode(png).decode())


def _own(name: str) -> Markup:
    return Markup((_PAGE / name).read_text(encoding="utf-8").rstrip("\n"))


def _version() -> str:
    try:
        return version("fxteleport")
    except PackageNotFoundError:
        return "from a checkout"
