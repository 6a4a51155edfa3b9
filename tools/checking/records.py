"""Records: the result of a check, as plain data and in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fxteleport.passes.rules.registry import RULES
from fxteleport.plan.plan import Plan
from fxteleport.tools.checking.alternate_backends import Executed
from fxteleport.tools.checking.session import Run
from fxteleport.tools.models.devices import device_name
from fxteleport.tools.models.request import Loaded, Request
from fxteleport.tools.options.common import Settings
from fxteleport.verify import Difference, EquivalenceReport
from fxteleport.verify.in_words import notes, sentence

Record = dict[str, Any]
Outcome = tuple[Record, str]  # a record, and its meaning in a sentence

_MEASURED = (
    "vacuous", "bitwise_equal", "max_abs", "max_rel", "first_difference", "num_free", "moved", "opaque",
    "conditions", "specialized", "nodes", "parameters", "seconds", "tolerance", "rounding", "execution", "against",
    "batch",
)  # fmt: skip

_COMPARED = (
    "verdict", "bound", "float64", "constant_outputs", "different_output", "compared_tensors", "wrong_parameter",
    "exercised", "epsilon_gap",
)  # fmt: skip


def blank(spec: str, settings: Settings, wanted: Request) -> Record:
    """The record of a check that could not be made: its settings, and None for its results."""
    return {
        "model": spec,
        "mode": settings.mode,
        "norm_stats": settings.norm_stats,
        "norms": settings.norms,
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
        **dict.fromkeys(_COMPARED),
    }


def record(spec: str, settings: Settings, wanted: Request, done: Run) -> Record:
    """The record of a run."""
    facts = blank(spec, settings, wanted) | measured(done.report, done.executed) | planned(done.plan, done.loaded)
    return facts | {"passed": done.passed, "seconds": done.seconds}


def measured(report: EquivalenceReport, executed: Executed | None = None) -> Record:
    """The results of the comparison."""
    return {
        "passed": report.passed,
        "vacuous": report.vacuous,
        "bitwise_equal": report.bitwise_equal,
        "max_abs": report.max_abs,
        "max_rel": report.max_rel,
        "first_difference": None if report.first_difference is None else described(report.first_difference),
        "tolerance": report.tolerance,
        "rounding": report.rounding,
        "verdict": report.verdict,
        "bound": report.bound,
        "float64": report.float64,
        "constant_outputs": list(report.constant_outputs),
        "different_output": report.different_output,
        "compared_tensors": report.parameters,
        "wrong_parameter": None if report.wrong_parameter is None else asdict(report.wrong_parameter),
        "exercised": report.exercised,
        "epsilon_gap": report.epsilon_gap,
        "execution": None if executed is None else executed.as_dict(),
    }


def planned(plan: Plan, loaded: Loaded) -> Record:
    """The results of the plan."""
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
    rule = next((r for r in RULES.values() if r.name == first.rule), None)
    code = getattr(rule.fn, "__code__", None) if rule is not None else None
    return asdict(first) | {"rule_source": f"{code.co_filename}:{code.co_firstlineno}" if code else ""}


def verdict(report: EquivalenceReport, executed: Executed | None = None) -> str:
    """The result of the comparison, in one sentence."""
    if report.vacuous:
        return f"{sentence(report)} (try --redraw)"
    if executed is not None and report.passed:
        far = f"{executed.teleported:.2g} from float64, the original {executed.original:.2g}"
        return f"{executed.how}: {far}" + ("" if executed.passed else f"; at most {executed.limit:.2g} is rounding")
    return "; ".join([sentence(report), *(notes(report) if report.passed else [])])
