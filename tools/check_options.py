"""The options of `fxteleport check` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_WHAT, _HOW, _RESULTS = "Which checks", "How to run", "Results"


def _option(name: str, panel: str, text: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(name, rich_help_panel=panel, help=text, metavar=metavar, **more)


Specs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL", help="timm names, torchvision/NAME, FILE.py:FACTORY, or patterns such as 'resnet*'."
    ),
]
Families = Annotated[
    list[str] | None,
    _option("--family", _WHAT, "Every model of a family: a module of timm.models, or torchvision/MODULE.", "NAME"),
]
Against = Annotated[
    str | None,
    _option(
        "--against",
        _WHAT,
        "Compare MODEL with other weights for it (a state dict) or with another MODEL; nothing is teleported.",
        "FILE|MODEL",
    ),
]
Seeds = Annotated[int, _option("--seeds", _WHAT, "Check with N seeds, from --seed on.", "N", min=1)]
Paranoid = Annotated[
    bool,
    _option(
        "--paranoid",
        _WHAT,
        "Every law, both modes, every norm statistics, eval and train mode, several batches and formats, whatever"
        " --mode, --norm-stats, --landscape, --exact, --batch and --dtype say.",
    ),
]
Images = Annotated[
    Path | None,
    _option("--images", _HOW, "Pictures as inputs, with the model's own transforms; else random numbers.", "FOLDER"),
]
Batch = Annotated[int | None, _option("--batch", _HOW, "Inputs at once. Default: 2, or up to 8 pictures.", "N", min=1)]
Amp = Annotated[bool, _option("--amp", _HOW, "Also under autocast to bfloat16, within the original's own rounding.")]
Compile = Annotated[bool, _option("--compile", _HOW, "Also through torch.compile, within the original's own rounding.")]
ChannelsLast = Annotated[bool, _option("--channels-last", _HOW, "Images and convolutions in that memory format.")]
Jobs = Annotated[int, _option("--jobs", _HOW, "Models at once, each in a process of its own.", "N", min=1)]
Jsonl = Annotated[
    str | None,
    _option("--jsonl", _RESULTS, "Write each record at once, as a line of JSON; - for standard output.", "PATH"),
]
Junit = Annotated[Path | None, _option("--junit", _RESULTS, "Write the results as JUnit XML.", "FILE")]
