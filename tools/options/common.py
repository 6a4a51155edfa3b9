"""Options that several commands share, declared and checked once.

Nothing in this folder imports torch before a command runs, so that help and errors in a call are shown at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxteleport.passes.errors import InputError
from fxteleport.plan.choices import LANDSCAPES, MODES, NORM_STATS, NORMS, check_range
from fxteleport.tools.options import model_kwargs
from fxteleport.tools.options.dataclass_options import option

if TYPE_CHECKING:
    from fxteleport.plan.cob import ChangeOfBasis
    from fxteleport.plan.plan import Plan
    from fxteleport.tools.models.request import Loaded, Request

DTYPES = ("float64", "float32", "bfloat16", "float16")
ALL = "all"
MODE = "full: any CoB, with teleported activations. weights: parameters only."
JSON = "Write the results as JSON; - for standard output."
_MODEL, COB, RUN = "Model", "Teleportation", "Run"

Model = Annotated[str, typer.Argument(metavar="MODEL", help="timm name, torchvision/NAME or FILE.py:FACTORY.")]
Mode = Annotated[str, option("--mode", COB, MODE, "|".join(MODES))]
NormStats = Annotated[
    str,
    option(
        "--norm-stats",
        COB,
        "Batch norm inputs. fixed: not teleported. rescaled: through the statistics (eval mode only)."
        " wrapped: divided at run time.",
        "|".join(NORM_STATS),
    ),
]
Norms = Annotated[
    str,
    option(
        "--norms",
        COB,
        "With --mode weights, inputs of layer, RMS, group, instance and L2 norms. exact: not teleported. scaled: by one"
        " positive factor, though the norm's epsilon stays; approximate.",
        "|".join(NORMS),
    ),
]
WeightsOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="Write PATH.safetensors (the weights), PATH.cob.safetensors and PATH.json.",
    ),
]
DataGuards = Annotated[
    bool,
    option(
        "--data-guards/--no-data-guards",
        COB,
        "Where integers or booleans among the inputs decide what runs (a mask): go as they do, and refuse others when"
        " the network runs. Without, what they decide is kept whole.",
    ),
]
Json = Annotated[str | None, option("--json", RUN, JSON, "PATH")]
Seed = Annotated[int, option("--seed", RUN, "Of the CoB, the random weights and the inputs.", "N")]
Device = Annotated[str, option("--device", RUN, "cpu, cuda, cuda:1, mps.", "NAME")]
CobRange = Annotated[float, option("--cob-range", COB, "Range R of the law, for example U(1 - R, 1 + R).", "R")]


@dataclass(frozen=True)
class Source:
    """The source of a network's weights, its inputs, its device and its number format."""

    input_size: Annotated[
        str | None,
        option("--input-size", _MODEL, "Size of one input, for example 3,96,96. Default: the model's.", "C,H,W"),
    ] = None
    pretrained: Annotated[bool, option("--pretrained", _MODEL, "Published weights (downloaded unless cached).")] = False
    checkpoint: Annotated[
        Path | None, option("--checkpoint", _MODEL, "Weights from a safetensors or torch state dict.", "FILE")
    ] = None
    redraw: Annotated[
        bool | None,
        option(
            "--redraw/--no-redraw",
            _MODEL,
            "Replace the parameters by generic random ones, so that no zero head or gain makes the check pass for"
            " nothing. Default: only where they would be a fresh initialisation.",
        ),
    ] = None
    model_kwargs: Annotated[
        list[str] | None,
        option(
            model_kwargs.NAME,
            _MODEL,
            "Arguments of the model's constructor, or of the factory, as num_classes=10 in_chans=1.",
            "NAME=VALUE",
        ),
    ] = None
    device: Device = "cpu"
    dtype: Annotated[str, option("--dtype", RUN, f"Number format: {', '.join(DTYPES)}.", "TYPE", DTYPES)] = "float32"

    def request(self, seed: int = 0) -> Request:
        """The request for the network.

        Raises:
            InputError: an option has an invalid value, or the device is not available.
        """
        one_of("--dtype", self.dtype, DTYPES)
        check_seed(seed)
        if self.pretrained and self.checkpoint is not None:
            raise InputError("--pretrained and --checkpoint are two sources of weights: pass one")
        size, settings = parse_size(self.input_size), model_kwargs.parsed(self.model_kwargs or ())

        import torch

        from fxteleport.tools.models.devices import check_device
        from fxteleport.tools.models.request import Request

        device, dtype = check_device(self.device), getattr(torch, self.dtype)
        return Request(size, self.pretrained, self.checkpoint, self.redraw, seed, device, dtype, settings=settings)


@dataclass(frozen=True)
class Law:
    """The law from which a change of basis is drawn."""

    landscape: Annotated[
        str, option("--landscape", COB, f"Law of the CoB: {', '.join(LANDSCAPES)}.", "LAW", LANDSCAPES)
    ] = "intra"
    cob_range: CobRange = 0.5
    exact: Annotated[bool, option("--exact", COB, "Powers of two: equal to the last bit, at every node.")] = False
    seed: Seed = 0
    data_guards: DataGuards = True

    def __post_init__(self) -> None:
        one_of("--landscape", self.landscape, LANDSCAPES)
        check_range(self.cob_range, self.landscape)
        if self.cob_range == 0 and not self.exact and self.landscape in ("intra", "log", "centered"):
            raise InputError(
                f"--cob-range 0 with --landscape {self.landscape} draws the identity: nothing would move, and a check"
                " would pass for nothing; take a positive range"
            )
        check_seed(self.seed)

    def sample(self, plan: Plan) -> ChangeOfBasis:
        """A change of basis of this law."""
        return plan.sample(self.cob_range, self.landscape, self.exact, self.seed)

    def settings(self, mode: str, norm_stats: str, norms: str = "exact") -> Settings:
        """This law for one kind of plan."""
        law = (self.landscape, self.cob_range, self.exact, self.seed, self.data_guards)
        return Settings(*law, mode, norm_stats, norms)

    def variants(self, mode: str, norm_stats: str, norms: str = "exact") -> list[Settings]:
        """This law for every valid kind of plan; each of the first two may be "all" (then `norms` is of weights mode).

        Raises:
            InputError: an unknown mode, norm_stats or norms, or a combination that is not valid.
        """
        modes, stats = MODES if mode == ALL else (mode,), NORM_STATS if norm_stats == ALL else (norm_stats,)
        pairs = [(m, s) for m in modes for s in stats if valid(m, s) or ALL not in (mode, norm_stats)]
        return [self.settings(m, s, "exact" if mode == ALL and m == "full" else norms) for m, s in pairs]


@dataclass(frozen=True)
class Settings(Law):
    """How to teleport: a law and a kind of plan."""

    mode: Mode = "full"
    norm_stats: NormStats = "fixed"
    norms: Norms = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("--mode", self.mode, MODES)
        one_of("--norm-stats", self.norm_stats, NORM_STATS)
        if not valid(self.mode, self.norm_stats):
            raise InputError("--norm-stats wrapped adds operations, which --mode weights forbids: use rescaled")
        check_norms(self.mode, self.norms)

    def plan(self, loaded: Loaded) -> Plan:
        """The plan of a network.

        Raises:
            TeleportError: it has none.
        """
        from fxteleport.plan.plan import plan

        return plan(
            loaded.model,
            *loaded.args,
            mode=self.mode,
            norm_stats=self.norm_stats,
            data_guards=self.data_guards,
            norms=self.norms,
            **loaded.kwargs,
        )


def valid(mode: str, norm_stats: str) -> bool:
    """Wrapped statistics add operations; weights mode forbids that."""
    return (mode, norm_stats) != ("weights", "wrapped")


def check_norms(mode: str, norms: str) -> None:
    """Raise InputError for an unknown treatment of norms, or one that does not go with the mode."""
    one_of("--norms", norms, NORMS)
    if (mode, norms) == ("full", "scaled"):
        raise InputError("--norms scaled is for --mode weights: with --mode full, norms are exact")


def check_seed(seed: int) -> None:
    """Raise InputError for an invalid seed."""
    if not 0 <= seed < 1 << 63:
        raise InputError(f"--seed must not be negative, nor 2**63 or more, got {seed}")


def one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    """Raise InputError for an unknown value of an option."""
    if value not in known:
        raise InputError(f"{option} is one of {', '.join(known)}; got '{value}'")


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
