"""The options of `equalize`: the number format, how the change of basis is chosen, and within which bounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fxteleport.passes.errors import InputError
from fxteleport.ranges.choices import METHODS, check_choices
from fxteleport.tools.options.common import RUN
from fxteleport.tools.options.dataclass_options import option

_FORMAT, _CHOICE = "Number format", "Choice"


@dataclass(frozen=True)
class Equalizing:
    """How the change of basis is chosen."""

    method: Annotated[str, option("--method", _CHOICE, "What is made small (docs/equalise.md).", "|".join(METHODS))] = (
        "range"
    )
    bits: Annotated[int, option("--bits", _FORMAT, "Of the weights, 2 to 16.", "N")] = 8
    per_channel: Annotated[
        bool, option("--per-channel", _FORMAT, "A scale for each output channel, not for each tensor.")
    ] = False
    activation_bits: Annotated[
        int | None, option("--activation-bits", _FORMAT, "The layers' inputs are rounded, too (needs --images).", "N")
    ] = None
    alpha: Annotated[float, option("--alpha", _CHOICE, "How much activations count, 0 to 1.", "A")] = 0.5
    exact: Annotated[bool, option("--exact", _CHOICE, "Powers of two: equal to the last bit, at every node.")] = False
    bound: Annotated[float, option("--bound", _CHOICE, "The largest factor that a CoB value may be.", "F")] = 1024.0
    bias_bound: Annotated[
        float, option("--bias-bound", _CHOICE, "The largest bias may become so many times as large.", "F")
    ] = 64.0
    least_gain: Annotated[
        float, option("--least-gain", _CHOICE, "Taken only where the squared error becomes so many times smaller.", "F")
    ] = 2.0
    images: Annotated[
        Path | None, option("--images", RUN, "Measure activations on the pictures of a folder.", "DIR")
    ] = None
    count: Annotated[int, option("--count", RUN, "How many pictures, at most.", "N")] = 32
    fold: Annotated[
        bool, option("--fold/--no-fold", _CHOICE, "Fold batch norms into the layers beside them first.")
    ] = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"--count is a number of pictures, got {self.count}")
        check_choices(
            self.method, self.bits, self.bound, self.bias_bound, self.activation_bits, self.alpha,
            self.images is not None, self.least_gain,
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """The arguments of `fxteleport.equalized`."""
        names = (
            "method",
            "bits",
            "per_channel",
            "activation_bits",
            "alpha",
            "exact",
            "bound",
            "bias_bound",
            "least_gain",
        )
        return {name: getattr(self, name) for name in names}
