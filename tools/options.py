"""Options: what the commands have in common, declared and checked once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from fxteleport.cob import LANDSCAPES, check_range
from fxteleport.errors import InputError
from fxteleport.plan import MODES, NORM_STATS
from fxteleport.tools.devices import check_device
from fxteleport.tools.models import Request

DTYPES = {name: getattr(torch, name) for name in ("float64", "float32", "bfloat16", "float16")}
ALL = "all"

_MODEL, _COB, _RUN = "Model", "Teleportation", "Run"


def _option(name: str, panel: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(name, rich_help_panel=panel, help=text, metavar=metavar)


Model = Annotated[str, typer.Argument(metavar="MODEL", help="timm name, torchvision/NAME or FILE.py:FACTORY.")]
Models = Annotated[list[str], typer.Argument(metavar="MODEL", help="timm names, torchvision/NAME, FILE.py:FACTORY.")]

InputSize = Annotated[
    str | None,
    _option("--input-size", _MODEL, "Size of one input, for example 3,96,96. Default: the model's.", "C,H,W"),
]
Pretrained = Annotated[bool, _option("--pretrained", _MODEL, "Published weights (downloaded unless cached).")]
Checkpoint = Annotated[
    Path | None, _option("--checkpoint", _MODEL, "Weights from a safetensors or torch state dict.", "FILE")
]
Redraw = Annotated[
    bool | None,
    _option(
        "--redraw/--no-redraw",
        _MODEL,
        "Replace the parameters by generic random ones, so that no zero head or gain makes the check pass for nothing."
        " Default: only where they would be a fresh initialisation.",
    ),
]

_MODE = "full: any CoB, with teleported activations. weights: parameters only."
Mode = Annotated[str, _option("--mode", _COB, _MODE, "|".join(MODES))]
ModeOrNone = Annotated[
    str | None, _option("--mode", _COB, f"{_MODE} Default: full; weights with --stream.", "|".join(MODES))
]
NormStats = Annotated[
    str,
    _option(
        "--norm-stats",
        _COB,
        "Batch norm inputs. fixed: not teleported. rescaled: through the statistics (eval mode only)."
        " wrapped: divided at run time.",
        "|".join(NORM_STATS),
    ),
]
Modes = Annotated[str, _option("--mode", _COB, "As of teleport, or all of them.", "|".join((*MODES, ALL)))]
AllNormStats = Annotated[
    str, _option("--norm-stats", _COB, "As of teleport, or all of them.", "|".join((*NORM_STATS, ALL)))
]
Landscape = Annotated[str, _option("--landscape", _COB, f"Law of the CoB: {', '.join(LANDSCAPES)}.", "LAW")]
CobRange = Annotated[float, _option("--cob-range", _COB, "Range R of the law, for example U(1 - R, 1 + R).", "R")]
Exact = Annotated[bool, _option("--exact", _COB, "Powers of two: equal to the last bit, at every node.")]

Json = Annotated[str | None, _option("--json", _RUN, "Write the results as JSON; - for standard output.", "PATH")]
Seed = Annotated[int, _option("--seed", _RUN, "Of the CoB, the random weights and the inputs.", "N")]
Device = Annotated[str, _option("--device", _RUN, "cpu, cuda, cuda:1, mps.", "NAME")]
Dtype = Annotated[str, _option("--dtype", _RUN, f"Number format: {', '.join(DTYPES)}.", "TYPE")]


@dataclass(frozen=True)
class Settings:
    """How to teleport: a law and a plan's options."""

    mode: str = "full"
    norm_stats: str = "fixed"
    landscape: str = "intra"
    cob_range: float = 0.5
    exact: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value, known in (("--mode", self.mode, MODES), ("--norm-stats", self.norm_stats, NORM_STATS)):
            one_of(option, value, known)
        if not valid(self.mode, self.norm_stats):
            raise InputError("--norm-stats wrapped adds operations, which --mode weights forbids: use rescaled")
        one_of("--landscape", self.landscape, LANDSCAPES)
        check_range(self.cob_range, self.landscape)
        if self.seed < 0:
            raise InputError(f"--seed must not be negative, got {self.seed}")

    def variants(self, mode: str, norm_stats: str) -> list[Settings]:
        """These settings for every valid combination; each of the two may be "all".

        Raises:
            InputError: an unknown mode or norm_stats, or a combination of two that is not valid.
        """
        modes, stats = MODES if mode == ALL else (mode,), NORM_STATS if norm_stats == ALL else (norm_stats,)
        pairs = [(m, s) for m in modes for s in stats if valid(m, s) or ALL not in (mode, norm_stats)]
        return [replace(self, mode=m, norm_stats=s) for m, s in pairs]


def valid(mode: str, norm_stats: str) -> bool:
    """Wrapped statistics add operations; weights mode forbids that."""
    return (mode, norm_stats) != ("weights", "wrapped")


def one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    """Raise InputError for a value that an option does not know."""
    if value not in known:
        raise InputError(f"{option} is one of {', '.join(known)}; got '{value}'")


def request(
    input_size: str | None = None,
    pretrained: bool = False,
    checkpoint: Path | None = None,
    redraw: bool | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
) -> Request:
    """The options about the model, checked.

    Raises:
        InputError: one of them is wrong, or the device is not there.
    """
    one_of("--dtype", dtype, tuple(DTYPES))
    if seed < 0:
        raise InputError(f"--seed must not be negative, got {seed}")
    if pretrained and checkpoint is not None:
        raise InputError("--pretrained and --checkpoint are two sources of weights: pass one")
    return Request(parse_size(input_size), pretrained, checkpoint, redraw, seed, check_device(device), DTYPES[dtype])


def parse_size(text: str | None) -> tuple[int, ...] | None:
    """Read 3,224,224 as (3, 224, 224)."""
    if text is None:
        return None
    try:
        size = tuple(int(part) for part in text.split(","))
    except ValueError:
        size = ()
    if not size or min(size) < 1:
        raise InputError(f"--input-size takes positive numbers such as 3,224,224; got '{text}'")
    return size
