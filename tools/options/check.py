"""The options of `fxteleport check` alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxteleport.atomic_files import require_writable
from fxteleport.passes.errors import InputError
from fxteleport.plan.choices import MODES, NORM_STATS
from fxteleport.tools.options.common import ALL, COB, JSON
from fxteleport.tools.options.dataclass_options import option

if TYPE_CHECKING:
    from fxteleport.tools.models.request import Request

_WHICH, _HOW, _RESULTS = "Which checks", "How to run", "Results"

Specs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL", help="timm names, torchvision/NAME, FILE.py:FACTORY, or patterns such as 'resnet*'."
    ),
]
Modes = Annotated[str, option("--mode", COB, "As of teleport, or all of them.", "|".join((*MODES, ALL)))]
AllNormStats = Annotated[
    str, option("--norm-stats", COB, "As of teleport, or all of them.", "|".join((*NORM_STATS, ALL)))
]


@dataclass(frozen=True)
class Which:
    """Which checks."""

    family: Annotated[
        list[str] | None,
        option("--family", _WHICH, "Every model of a family: a module of timm.models, or torchvision/MODULE.", "NAME"),
    ] = None
    against: Annotated[
        str | None,
        option(
            "--against",
            _WHICH,
            "Compare MODEL with other weights for it (a state dict) or with another MODEL; nothing is teleported.",
            "FILE|MODEL",
        ),
    ] = None
    seeds: Annotated[int, option("--seeds", _WHICH, "Check with N seeds, from --seed on.", "N", min=1)] = 1
    paranoid: Annotated[
        bool,
        option(
            "--paranoid",
            _WHICH,
            "Every law, both modes, every norm statistics, eval and train mode, several batches and formats, whatever"
            " --mode, --norm-stats, --landscape, --exact, --batch and --dtype say.",
        ),
    ] = False


@dataclass(frozen=True)
class How:
    """How to run: on which inputs, in which memory format, in how many processes."""

    images: Annotated[
        Path | None,
        option("--images", _HOW, "Pictures as inputs, with the model's own transforms; else random numbers.", "FOLDER"),
    ] = None
    batch: Annotated[
        int | None, option("--batch", _HOW, "Inputs at once. Default: 2, or up to 8 pictures.", "N", min=1)
    ] = None
    channels_last: Annotated[
        bool, option("--channels-last", _HOW, "Images and convolutions in that memory format.")
    ] = False
    jobs: Annotated[int, option("--jobs", _HOW, "Models at once, each in a process of its own.", "N", min=1)] = 1

    def request(self, wanted: Request) -> Request:
        """The request with these inputs.

        Raises:
            InputError: there are no such pictures.
        """
        if self.images is not None:
            from fxteleport.tools.models.images import files

            files(self.images, 1)
        return replace(wanted, batch=self.batch, images=self.images, channels_last=self.channels_last)


@dataclass(frozen=True)
class Execution:
    """How to run two networks.

    Attributes:
        amp: under autocast to bfloat16, which has the range of float32.
        compile: through `torch.compile`, with its `backend`.
    """

    amp: Annotated[
        bool, option("--amp", _HOW, "Also under autocast to bfloat16, within the original's own rounding.")
    ] = False
    compile: Annotated[
        bool, option("--compile", _HOW, "Also through torch.compile, within the original's own rounding.")
    ] = False
    backend: str = "inductor"

    def __bool__(self) -> bool:
        return self.amp or self.compile

    def __str__(self) -> str:
        return " and ".join(["autocast to bfloat16"] * self.amp + ["compiled"] * self.compile)


@dataclass(frozen=True)
class Results:
    """The files for the results; whether they can be written is checked before the work."""

    json: Annotated[str | None, option("--json", _RESULTS, JSON, "PATH")] = None
    jsonl: Annotated[
        str | None,
        option("--jsonl", _RESULTS, "Write each record at once, as a line of JSON; - for standard output.", "PATH"),
    ] = None
    junit: Annotated[Path | None, option("--junit", _RESULTS, "Write the results as JUnit XML.", "FILE")] = None

    def __post_init__(self) -> None:
        if self.json == "-" and self.jsonl == "-":
            raise InputError("--json - and --jsonl - both want standard output: write one of them to a file")
        for file in (self.junit, self.jsonl):
            if file is not None and file != "-":
                require_writable(file)

    @property
    def printed(self) -> str | None:
        """The JSON file, or "-" where standard output is to carry records and nothing else."""
        return "-" if self.jsonl == "-" else self.json
