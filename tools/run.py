"""Run: one network planned, teleported and checked. What `teleport` and `check` share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fxteleport.cob import ChangeOfBasis
from fxteleport.errors import ModelError
from fxteleport.passes.rewrite import TeleportedModule
from fxteleport.plan import Plan, plan
from fxteleport.tools.models import Loaded
from fxteleport.tools.options import Settings
from fxteleport.verify import EquivalenceReport, verify


@dataclass(frozen=True)
class Run:
    """A teleportation and its check."""

    loaded: Loaded
    settings: Settings
    plan: Plan
    cob: ChangeOfBasis
    network: TeleportedModule
    report: EquivalenceReport

    @property
    def seconds(self) -> dict[str, float]:
        """Wall-clock time of each pass."""
        return {**self.plan.seconds, "verify": self.report.seconds}


def run(loaded: Loaded, settings: Settings, step: Callable[[str], None] = lambda _: None) -> Run:
    """Plan, sample, rewrite and verify; `step` hears what comes next.

    Raises:
        TeleportError: the plan or the law does not fit the model, or the model does not run.
    """
    step("planning")
    found = plan(loaded.model, *loaded.args, **loaded.kwargs, mode=settings.mode, norm_stats=settings.norm_stats)
    cob = found.sample(settings.cob_range, settings.landscape, settings.exact, settings.seed)
    step("rewriting")
    network = found.rewrite(cob)
    step("verifying")
    try:
        report = verify(loaded.model, network, *loaded.args, **loaded.kwargs)
    except (RuntimeError, NotImplementedError) as error:  # out of memory; no kernel for this number format
        raise ModelError(f"'{loaded.spec}' cannot be compared here: {error}") from error
    return Run(loaded, settings, found, cob, network, report)


def record(spec: str, settings: Settings, device: str, dtype: torch.dtype, done: Run | None) -> dict[str, Any]:
    """The facts of a run as plain data; those of a run that did not happen are None."""
    facts: dict[str, Any] = {
        "model": spec,
        "mode": settings.mode,
        "norm_stats": settings.norm_stats,
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "exact": settings.exact,
        "landscape": settings.landscape,
        "cob_range": settings.cob_range,
        "seed": settings.seed,
        "passed": False,
        **dict.fromkeys(_MEASURED),
    }
    if done is not None:
        report, found = done.report, done.plan
        first = report.first_difference
        facts |= {
            "passed": report.passed,
            "vacuous": report.vacuous,
            "bitwise_equal": report.bitwise_equal,
            "max_abs": report.max_abs,
            "max_rel": report.max_rel,
            "first_difference": None if first is None else asdict(first),
            "num_free": found.num_free,
            "moved": found.moved,
            "opaque": [asdict(o) for o in found.opaque],
            "specialized": list(found.specialized),
            "nodes": len(found.captured.graph.nodes),
            "parameters": done.loaded.parameters,
            "seconds": done.seconds,
        }
    return facts


_MEASURED = (
    "vacuous", "bitwise_equal", "max_abs", "max_rel", "first_difference", "num_free", "moved", "opaque",
    "specialized", "nodes", "parameters", "seconds",
)  # fmt: skip


def verdict(report: EquivalenceReport) -> str:
    """What the comparison found, in one sentence."""
    if report.vacuous:
        return "proves nothing: the original's output is constant or not finite (try --redraw)"
    if not report.passed:
        where = f"; first at {report.first_difference}" if report.first_difference else ""
        return f"the outputs differ by {report.max_rel:.2g} of the largest{where}"
    if report.bitwise_equal and not report.tolerance:
        return f"equal to the last bit at {report.nodes} nodes"
    own = "" if report.rounding is None else f"; the original's own rounding is {report.rounding:.2g}"
    return f"largest relative difference {report.max_rel:.2g}{own}"
