"""Records: what a check found, as plain data and in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fxteleport.passes.rules import RULES
from fxteleport.plan import Plan
from fxteleport.tools.devices import device_name
from fxteleport.tools.execution import Executed
from fxteleport.tools.models import Loaded, Request
from fxteleport.tools.options import Settings
from fxteleport.tools.run import Run
from fxteleport.verify import Difference, EquivalenceReport

Record = dict[str, Any]
Outcome = tuple[Record, str]  # a record and what it says, in a sentence

_MEASURED = (
    "vacuous", "bitwise_equal", "max_abs", "max_rel", "first_difference", "num_free", "moved", "opaque",
    "conditions", "specialized", "nodes", "parameters", "seconds", "tolerance", "rounding", "execution", "against",
    "batch",
)  # fmt: skip


def blank(spec: str, settings: Settings, wanted: Request) -> Record:
    """The record of a check that has not happened: how it was to be made, and None for what it would have found."""
    return {
        "model": spec,
        "mode": settings.mode,
        "norm_stats": settings.norm_stats,
        "device": wanted.device,
        "dtype": str(wanted.dtype).removeprefix("torch."),
        "exact": settings.exact,
        "landscape": settings.landscape,
        "cob_range": settings.cob_range,
        "seed": settings.seed,
        "passed": False,
        **dict.fromkeys(_MEASURED),
        "training": False,
        "channels_last": wanted.channels_last,
        "images": None if wanted.images is None else str(wanted.images),
        "device_name": device_name(wanted.device),
    }


def record(spec: str, settings: Settings, wanted: Request, done: Run) -> Record:
    """The facts of a run."""
    facts = blank(spec, settings, wanted) | measured(done.report, done.executed) | planned(done.plan, done.loaded)
    return facts | {"passed": done.passed, "seconds": done.seconds}


def measured(report: EquivalenceReport, executed: Executed | None = None) -> Record:
    """What the comparison found."""
    return {
        "passed": report.passed,
        "vacuous": report.vacuous,
        "bitwise_equal": report.bitwise_equal,
        "max_abs": report.max_abs,
        "max_rel": report.max_rel,
        "first_difference": None if report.first_difference is None else described(report.first_difference),
        "tolerance": report.tolerance,
        "rounding": report.rounding,
        "execution": None if executed is None else executed.as_dict(),
    }


def planned(plan: Plan, loaded: Loaded) -> Record:
    """What the plan found."""
    return {
        "num_free": plan.num_free,
        "moved": plan.moved,
        "opaque": [asdict(o) for o in plan.opaque],
        "conditions": [asdict(c) for c in plan.conditions],
        "specialized": plan.specialized,
        "nodes": len(plan.captured.graph.nodes),
        "parameters": loaded.parameters,
        "batch": loaded.batch,
    }


def described(first: Difference) -> Record:
    """A difference, with the line that defines the rule responsible."""
    made = next((r for r in RULES.values() if r.name == first.rule), None)
    code = getattr(made.fn, "__code__", None) if made is not None else None
    return asdict(first) | {"rule_source": f"{code.co_filename}:{code.co_firstlineno}" if code else ""}


def verdict(report: EquivalenceReport, executed: Executed | None = None) -> str:
    """What the comparison found, in one sentence."""
    if report.vacuous:
        return "proves nothing: the original's output is constant or not finite (try --redraw)"
    if not report.passed:
        where = f"; first at {report.first_difference}" if report.first_difference else ""
        outputs = f"differ by {report.max_rel:.2g} of the largest" if report.max_rel else "agree, values inside do not"
        return f"the outputs {outputs}{where}"
    if executed is not None:
        far = f"{executed.teleported:.2g} from float64, the original {executed.original:.2g}"
        return f"{executed.how}: {far}" + ("" if executed.passed else f"; at most {executed.limit:.2g} is rounding")
    if report.bitwise_equal and not report.tolerance:
        return f"equal to the last bit at {report.nodes} nodes" if report.nodes else "outputs equal to the last bit"
    own = "" if report.rounding is None else f"; the original's own rounding is {report.rounding:.2g}"
    return f"largest relative difference {report.max_rel:.2g}{own}"
