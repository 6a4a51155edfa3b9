"""The options of `fit-range`: the number format, and the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fxteleport.passes.errors import InputError
from fxteleport.tools.options.common import RUN, one_of
from fxteleport.tools.options.dataclass_options import option

if TYPE_CHECKING:
    import torch

_FORMAT = "Number format"
TO = ("float16", "bfloat16")


@dataclass(frozen=True)
class Fitting:
    """What is to be fitted."""

    to: Annotated[
        str, option("--to", _FORMAT, f"The format that the network is to run in: {', '.join(TO)}.", "TYPE", TO)
    ] = "float16"
    headroom: Annotated[
        float, option("--headroom", _FORMAT, "How many times larger values may be than on these data.", "F")
    ] = 2.0
    images: Annotated[
        Path | None, option("--images", RUN, "Measure on the pictures of a folder. Default: the example inputs.", "DIR")
    ] = None
    count: Annotated[int, option("--count", RUN, "How many pictures, at most.", "N")] = 32

    def __post_init__(self) -> None:
        one_of("--to", self.to, TO)
        if self.count < 1:
            raise InputError(f"--count is a number of pictures, got {self.count}")
        if not self.headroom >= 1:
            raise InputError(f"--headroom is a factor from 1 on, got {self.headroom}")

    def dtype(self) -> torch.dtype:
        """The format."""
        import torch

        value: torch.dtype = getattr(torch, self.to)
        return value
