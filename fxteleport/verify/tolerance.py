"""The tolerance for the outputs of a network and of its teleported version: what rounding explains, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxteleport.plan.caches import restored_outputs, teleport_inputs
from fxteleport.plan.teleportation import Teleportation, teleportation_of
from fxteleport.verify.compare import Comparison, compared, largest_tolerance
from fxteleport.verify.float64 import own_rounding
from fxteleport.verify.random_numbers import Draws
from fxteleport.verify.running import run

FLOAT64 = 1e-9  # relative, for CoBs that are no powers of two
WIDE = {torch.float64, torch.complex128}
# A teleported network rounds at other scales: its error may be this many times the original's.
_MARGIN = 16


@dataclass(frozen=True)
class Pair:
    """A network, its teleported version, and the inputs to compare them on.

    Attributes:
        draws: the random numbers, the same for both.
        writes: their forwards may write to parameters, which must be put back.
    """

    model: nn.Module
    teleported: nn.Module
    inputs: Any
    keyword_inputs: Any
    draws: Draws
    writes: bool = True

    @property
    def teleportation(self) -> Teleportation | None:
        """The plan and the CoB of the teleported network, if it has them."""
        return teleportation_of(self.teleported)

    def compared(self) -> tuple[Comparison, frozenset[str]]:
        """The outputs of the two networks, and the names of the buffers that their forwards write to."""
        args, kwargs, made = self.inputs, self.keyword_inputs, self.teleportation
        moved = (args, kwargs) if made is None else teleport_inputs(made.plan, made.cob, *args, **kwargs)
        expected, actual = self.draws.same(
            lambda: run(self.model, args, kwargs, self.writes),
            lambda: run(self.teleported, moved[0], moved[1], self.writes),
        )
        outputs = actual.outputs
        found = outputs if made is None else restored_outputs(made.plan, made.cob, args, kwargs, outputs)
        return compared(expected.outputs, found), expected.written | actual.written


@dataclass(frozen=True)
class Tolerance:
    """The largest allowed difference of outputs.

    Attributes:
        value: the largest relative difference; 0 where outputs must be equal to the last bit.
        rounding: the original's own relative rounding error, where it was measured.
        bound: the tolerance above which a comparison cannot detect a wrong network; None for bitwise comparisons.
    """

    value: float
    rounding: float | None
    bound: float | None


BITWISE = Tolerance(0.0, None, None)


def tolerance_of(pair: Pair, outputs: Comparison) -> Tolerance:
    """The tolerance for these outputs under any CoB."""
    expected = [a for a, _ in outputs.pairs]
    bound = largest_tolerance(pair.model, expected)
    if outputs.dtypes <= WIDE and outputs.max_rel <= FLOAT64:
        return Tolerance(FLOAT64, None, bound)
    # A random network draws other numbers in float64: its rounding is then unknown, and not allowed for.
    rounding = 0.0 if pair.draws.drawn else own_rounding(pair.model, expected, pair.inputs, pair.keyword_inputs)
    value = _MARGIN * rounding + 4 * max((torch.finfo(d).eps for d in outputs.dtypes), default=0.0)
    return Tolerance(max(FLOAT64, value), rounding, bound)
