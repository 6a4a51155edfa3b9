"""Survey: planning and checking one network of timm or torchvision, as one row of the coverage table.

Planned at the network's own input size, in both modes; then teleported with an exact CoB on re-drawn parameters and
compared at every node, at its own size if that is affordable; and the same graphs, and a checkpoint, are run on other
inputs (`tools/survey/other_inputs.py`).
"""

from __future__ import annotations

import contextlib
import gc
import io
import time
import warnings

import torch
from torch import nn

from fxteleport.models import zoo
from fxteleport.passes.capture.leaf_table import WHOLE
from fxteleport.passes.capture.meta_values import tree_map
from fxteleport.passes.errors import InputError, ModelError
from fxteleport.plan.choices import MODES
from fxteleport.plan.plan import Plan, plan
from fxteleport.tools.console import one_line
from fxteleport.tools.models.determinism import deterministic, seeded
from fxteleport.tools.models.memory import out_of_memory, peak_bytes
from fxteleport.tools.survey.building import (
    accepts,
    arguments,
    build,
    cost,
    count_parameters,
    fill,
    rebuilt,
    size_text,
    smaller,
)
from fxteleport.tools.survey.other_inputs import Other, asked, checkpoint, emitted, shapes
from fxteleport.tools.survey.row import Row, Terms
from fxteleport.verify import EquivalenceReport, verify

# Copies of the parameters that a check holds at once: the network, the teleported one, and what is being drawn.
_COPIES = 3.4
# What a network, or a graph that was captured at another size, does with a size that it cannot take.
_REFUSALS = (ModelError, InputError, RuntimeError, ValueError, IndexError)


def survey(name: str, terms: Terms) -> Row:
    """Survey one network; any error is in its row.

    In float32 if that fits the memory, else in bfloat16, else planned without a run.
    """
    start = time.perf_counter()
    formats: list[torch.dtype | None] = [torch.float32, torch.bfloat16, None]
    while True:
        row = Row(name, zoo.LIBRARIES[name.startswith("torchvision/")], zoo.family(name))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                row.parameters = count_parameters(name)
                formats = [f for f in formats if f is None or row.parameters * f.itemsize * _COPIES <= terms.memory]
                _survey(row, formats.pop(0), terms)
        except Exception as error:  # one network's failure is its own row
            if out_of_memory(error) and formats:
                gc.collect()
                continue
            row.error = one_line(error)[:300] or type(error).__name__
        row.seconds = round(time.perf_counter() - start, 2)
        return row


def replan(row: Row, terms: Terms) -> Row:
    """A network's row with its plans made again, in the row's number format; nothing is run."""
    now = Row(row.model, row.library, row.family, row.parameters, dtype=row.dtype)
    dtype = None if row.dtype is None else getattr(torch, row.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _planned(now, build(row.model, None, dtype), terms)
    return now


def _survey(row: Row, dtype: torch.dtype | None, terms: Terms) -> None:
    """Survey a network in a number format; with None, plan it and run nothing."""
    assert row.parameters is not None
    built = build(row.model, None, dtype)
    plans = _planned(row, built, terms)
    if dtype is None:
        return
    row.dtype = str(dtype).removeprefix("torch.")
    size, *_ = built.shapes
    row.same_graph, row.batch = True, 1
    if cost(row.parameters, size) <= terms.budget:
        row.size = size_text(size)
        fill(built, terms)
        row.exact = _check(row, built, plans, terms, size)
        return
    affordable = [s for s in smaller(size) if cost(row.parameters, s) <= terms.budget]
    for small in [*affordable, *list(smaller(size))[::-1]]:
        row.size = size_text(small)
        if not built.listed and accepts(built.sized(small)):
            fill(built, terms)
            with contextlib.suppress(*_REFUSALS):  # the graph has its own size built in
                row.exact = _check(row, built, plans, terms, small)
                return
        with contextlib.suppress(*_REFUSALS):
            made = rebuilt(row.model, small, dtype, terms)
            own = [_plan(made, mode, terms) for mode in MODES]
            row.same_graph, row.exact = False, _check(row, made, own, terms, small)
            return
    row.size, row.same_graph = size_text(size), True
    fill(built, terms)
    row.exact = _check(row, built, plans, terms, size)


# -- planning --------------------------------------------------------------------------------------------


def _planned(row: Row, built: zoo.Built, terms: Terms) -> list[Plan]:
    """Plan in both modes, and note the results in the row."""
    (full, peak), weights = peak_bytes(lambda: _plan(built, "full", terms)), _plan(built, "weights", terms)
    row.nodes = len(full.captured.graph.nodes)
    row.captured, row.planned = WHOLE not in full.captured.opaque, True
    row.free, row.moved = full.num_free, round(full.moved, 4)
    row.free_weights, row.moved_weights = weights.num_free, round(weights.moved, 4)
    row.opaque = len(full.opaque)
    row.why = "; ".join(dict.fromkeys(f"{o.path}: {o.why}" for o in full.opaque))[:500] or None
    if not weights.num_free:
        row.pinned = "; ".join(dict.fromkeys(g.why for g in weights.groups))[:500] or None
    row.plan_s = round(sum(full.seconds.values()), 4)
    row.plan_mb = round(peak / 1e6, 1)
    return [full, weights]


def _plan(built: zoo.Built, mode: str, terms: Terms) -> Plan:
    dtype = next((p.dtype for p in built.model.parameters()), torch.float32)
    inputs = arguments(built, 1, "meta", dtype)
    return plan(built.model, *inputs, mode=mode, norm_stats=terms.norm_stats)


# -- checking --------------------------------------------------------------------------------------------


def _check(row: Row, built: zoo.Built, plans: list[Plan], terms: Terms, size: tuple[int, ...]) -> bool:
    """Compare the emitted networks with the original on one sample of a size, and then on other inputs."""
    passed, row.error = True, None
    others: list[Other] | None = None
    ends: list[str] = []
    for one_plan in plans:
        cob = one_plan.sample(exact=True, seed=terms.seed)
        network = one_plan.rewrite(cob)
        report = _compared(built.sized(size), network, 1, terms)
        passed &= report.passed and report.bitwise_equal
        if not report.passed:
            row.error = f"{one_plan.mode}: {_why(report)}"
        if others is None:
            others = _others(built, terms, size)
        ends += emitted(one_plan, network, others, terms.device, terms.seed)
        del network
        gc.collect()  # its parameters go before the next network is made
        if one_plan.mode == "weights":
            ends += checkpoint(one_plan, cob, others, terms.device, terms.seed)
    row.other = "; ".join(ends) or None
    different = next((end for end in ends if end.endswith("differs")), None)
    if different is not None:  # a refusal is honest, another result is not
        passed, row.error = False, different
    return passed


def _why(report: EquivalenceReport) -> str:
    if report.verdict != "different":
        return report.verdict
    return str(report.first_difference or report.wrong_parameter or report.different_output or "outputs differ")


def _others(built: zoo.Built, terms: Terms, size: tuple[int, ...]) -> list[Other]:
    """A batch of two of another size, if the network takes one; and another size of each axis."""

    def accepted(shape: tuple[int, ...]) -> bool:
        return accepts(built.sized(shape))

    both = next((s for s in smaller(size) if accepted(s)), size)
    chosen = [(2, both), *((1, s) for s in shapes(size, accepted) if s != both and not built.listed)]
    dtype = next((p.dtype for p in built.model.parameters()), torch.float32)
    with seeded(terms.seed):
        given = [(f"{n}x{size_text(s)}", arguments(built.sized(s), n, None, dtype)) for n, s in chosen]
    return asked(built.model, given, terms.device, terms.seed)


def _compared(built: zoo.Built, network: nn.Module, batch: int, terms: Terms) -> EquivalenceReport:
    dtype = next((p.dtype for p in built.model.parameters()), torch.float32)
    with seeded(terms.seed):
        args = arguments(built, batch, None, dtype)
    # where a graph refuses, fx prints its line
    with contextlib.redirect_stderr(io.StringIO()), deterministic(terms.device):
        return verify(built.model, network, *tree_map(lambda x: x.to(terms.device), args))
