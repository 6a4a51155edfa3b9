"""The options of `inspect` alone: what to show, and what to draw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fxteleport.tools.options import _option as option

_LOOK, _PICTURE = "What to show", "Pictures"

GroupId = Annotated[str | None, option("--group", _LOOK, "One group: members, what joins them, what they scale.", "N")]
NodeName = Annotated[str | None, option("--node", _LOOK, "One node, module or parameter, and its groups.", "NAME")]
Pinned = Annotated[bool, option("--pinned", _LOOK, "What holds freedom back, largest first, and what would free it.")]
Diff = Annotated[bool, option("--diff", _LOOK, "Original and rewritten graph side by side, only what changed.")]
Every = Annotated[bool, option("--all", _LOOK, "The tree of all modules, also of those that look like one before.")]
Depth = Annotated[int | None, typer.Option("--depth", min=1, rich_help_panel=_LOOK, metavar="N", help="Tree levels.")]
Limit = Annotated[
    int, typer.Option("--limit", min=0, rich_help_panel=_LOOK, metavar="N", help="Rows of a list; --json has all.")
]
Html = Annotated[Path | None, option("--html", _PICTURE, "Write one self-contained page for a browser.", "FILE")]
Explorer = Annotated[Path | None, option("--explorer", _PICTURE, "Write a graph for Google's Model Explorer.", "FILE")]
Explore = Annotated[bool, option("--explore", _PICTURE, "Open the graph in Model Explorer.")]
Plot = Annotated[
    str | None, option("--plot", _PICTURE, "Draw before and after (with --output).", "weights|cob|ranges|features")
]
PlotOutput = Annotated[Path | None, option("--output", _PICTURE, "Where the plot goes: .png or .svg.", "FILE")]
Image = Annotated[Path | None, option("--image", _PICTURE, "Image for --plot features.", "FILE")]
Layers = Annotated[list[str] | None, option("--layer", _PICTURE, "Module to plot; may be repeated.", "NAME")]
