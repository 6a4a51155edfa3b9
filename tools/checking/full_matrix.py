"""`--paranoid`: one network under every law, mode and norm_stats, in eval and train mode, in several formats.

Powers of two must be exact to the last bit in three number formats; any other CoB up to float64's rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from fxteleport.passes.errors import TeleportError
from fxteleport.plan.choices import LANDSCAPES
from fxteleport.tools.checking.records import Outcome, blank, measured, planned, verdict
from fxteleport.tools.checking.train_mode import verify_training
from fxteleport.tools.console import one_line
from fxteleport.tools.models import load
from fxteleport.tools.models.determinism import deterministic
from fxteleport.tools.models.request import Loaded, Request
from fxteleport.tools.options.common import ALL, Settings
from fxteleport.verify import EquivalenceReport, verify

EVAL_BATCHES, TRAIN_BATCHES = (1, 3), (2,)


@dataclass(frozen=True)
class Format:
    """A column of the matrix: a number format, and whether the CoB is of powers of two."""

    title: str
    dtype: torch.dtype
    exact: bool


FORMATS = (
    Format("f64~", torch.float64, False),
    Format("f64", torch.float64, True),
    Format("f32", torch.float32, True),
    Format("bf16", torch.bfloat16, True),
)
LEGEND = (
    f"f64, f32, bf16: a CoB of powers of two, equal to the last bit; f64~: any CoB, to"
    f" 1e-9. Batches of {', '.join(map(str, EVAL_BATCHES))} in eval and {', '.join(map(str, TRAIN_BATCHES))} in train"
    " mode. -: rescaled statistics are exact in eval mode only."
)


def check_everything(spec: str, wanted: Request, base: Settings) -> Iterator[Outcome]:
    """The outcome of every cell of the matrix, law by law.

    Raises:
        TeleportError: the network cannot be built, or does not run on its inputs.
    """
    networks = {
        (dtype, batch): load.load(spec, replace(wanted, dtype=dtype, batch=batch))
        for dtype in dict.fromkeys(f.dtype for f in FORMATS)
        for batch in (*TRAIN_BATCHES, *EVAL_BATCHES)
    }
    for variant in base.variants(ALL, ALL):
        sheets = {}
        for dtype in dict.fromkeys(d for d, _ in networks):
            own = {batch: network for (d, batch), network in networks.items() if d == dtype}
            sheets[dtype] = Sheet(spec, replace(wanted, dtype=dtype), variant, own)
        for law in LANDSCAPES:
            for number_format in FORMATS:
                yield from sheets[number_format.dtype].cells(replace(variant, landscape=law, exact=number_format.exact))


class Sheet:
    """One plan in one number format, with the inputs on which its CoBs are checked."""

    def __init__(self, spec: str, wanted: Request, settings: Settings, networks: dict[int, Loaded]) -> None:
        self.spec, self.wanted = spec, wanted
        self.first = next(iter(networks.values()))
        self.plan = settings.plan(self.first)
        own = {n.batch: n for b, n in networks.items() if b in EVAL_BATCHES}  # a factory may have inputs of its own
        self.on = [(n, False) for n in own.values()]
        if settings.norm_stats != "rescaled":
            self.on += [(networks[b], True) for b in TRAIN_BATCHES]
        self.known = [planned(self.plan, n) for n, _ in self.on]

    def cells(self, settings: Settings) -> Iterator[Outcome]:
        """One CoB, checked in eval and in train mode."""
        network = self.plan.rewrite(settings.sample(self.plan))
        for (loaded, training), known in zip(self.on, self.known, strict=True):
            facts = blank(self.wanted.named(self.spec), settings, self.wanted) | known | {"training": training}
            try:
                with deterministic(loaded.device):
                    report = self._verified(network, loaded, training, settings)
            except (TeleportError, RuntimeError, ValueError) as error:
                yield facts | {"error": one_line(error)}, one_line(error)
                continue
            seconds = {**self.plan.seconds, "verify": report.seconds}
            yield facts | measured(report) | {"seconds": seconds}, verdict(report)

    def _verified(self, network: nn.Module, loaded: Loaded, training: bool, settings: Settings) -> EquivalenceReport:
        if training:
            given = (loaded.args, loaded.kwargs, settings.exact, settings.seed)
            return verify_training(self.first.model, network, *given)
        return verify(self.first.model, network, *loaded.args, **loaded.kwargs)
