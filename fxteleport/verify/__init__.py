"""Verify: do two networks compute the same function, end to end and at every node?

    report.py      what a comparison finds; its attributes are the contract
    outputs.py     whatever networks return, taken apart
    compare.py     the outputs of two networks; from which tolerance on they cannot tell
    parameters.py  the parameters of an emitted network; the share of them that a run exercises
    stepping.py    two networks node by node
    running.py     networks on inputs, with nothing of them changed

Under a CoB of powers of two the answer needs no tolerance (but in float16, which such a CoB can leave the range of):
every value must be the original's times tau to the last bit. Under any other CoB the teleported network may be no
further from the exact result than the original's own rounding explains. Where that rounding says nothing, float64
copies of both networks decide; where these cannot either, the verdict is "cannot tell", which is a failure.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from fxteleport.errors import InputError, TeleportError
from fxteleport.verify.compare import (
    Comparison,
    compare,
    compared,
    difference,
    equal,
    is_vacuous,
    largest_tolerance,
)  # fmt: skip
from fxteleport.verify.outputs import paired
from fxteleport.verify.parameters import compare_parameters, exercised, same_state
from fxteleport.verify.report import Difference, EquivalenceReport, TensorDifference, Verdict
from fxteleport.verify.running import (
    Draws,
    doubled,
    evaluating,
    in_float64,
    may_write_weights,
    own_copy,
    own_rounding,
    precise,
    run,
    undisturbed,
)  # fmt: skip
from fxteleport.verify.stepping import NodeValue, compare_nodes, in_step

__all__ = [
    "FLOAT64", "Comparison", "Difference", "Draws", "EquivalenceReport", "NodeValue", "TensorDifference", "compare",
    "difference", "equal", "evaluating", "in_step", "is_vacuous", "own_copy", "paired", "precise", "undisturbed",
    "verify",
]  # fmt: skip

# A teleported network rounds at other scales: it may be this much further from the exact result than the original.
_MARGIN = 16
_WIDE = {torch.float64, torch.complex128}
FLOAT64 = 1e-9  # relative, for CoBs that are no powers of two


@torch.no_grad()
def verify(model: nn.Module, gm: nn.Module, *inputs: Any, **keyword_inputs: Any) -> EquivalenceReport:
    """Compare a network with its teleported version in eval mode, on given inputs.

    All outputs are compared, of any kind. Where `gm` was emitted by `plan.rewrite`, its parameters are compared with
    the model's times their factors, and every node is compared too. Neither network is changed.

    Raises:
        InputError: there are no inputs, or the outputs have different structures, shapes or types.
    """
    if not inputs and not keyword_inputs:
        raise InputError("verify needs the inputs to compare the two networks on")
    start = time.perf_counter()
    draws = Draws(gm)
    with undisturbed(model, gm, weights=may_write_weights(gm)), evaluating(model), evaluating(gm), draws.kept():
        return _Check(model, gm, inputs, keyword_inputs, draws, start).report()


@dataclass
class _Check:
    """One comparison of two networks in the number format that they are in."""

    model: nn.Module
    gm: nn.Module
    inputs: Any
    keyword_inputs: Any
    draws: Draws
    start: float
    made: Any = field(init=False)

    def __post_init__(self) -> None:
        self.made = getattr(self.gm, "meta", {}).get("teleportation") if isinstance(self.gm, fx.GraphModule) else None

    def report(self) -> EquivalenceReport:
        model, gm, given = self.model, self.gm, (self.inputs, self.keyword_inputs)
        weights = may_write_weights(gm)
        expected, actual = self.draws.same(lambda: run(model, *given, weights), lambda: run(gm, *given, weights))
        found = compared(expected.outputs, actual.outputs)
        exact = found.bitwise if self.made is None else self._is_exact()
        tolerance, rounding, bound = (0.0, None, None) if exact else self._tolerance(found)
        nodes, first, parameters, wrong = 0, None, 0, None
        if self.made is not None:
            assert isinstance(gm, fx.GraphModule)
            parameters, wrong = compare_parameters(model, gm, expected.written | actual.written)
            nodes, first = compare_nodes(self.made, gm, *given, tolerance)
        wide: tuple[Comparison, float] | None = None
        if found.vacuous:
            verdict: Verdict = "vacuous"
        elif wrong is not None:
            verdict = "different"
        elif exact:
            verdict = "same" if found.bitwise and first is None else "different"
        elif not found.max_rel <= tolerance or (found.other is not None and found.max_abs == 0):
            verdict = "different"
        elif bound is not None and tolerance <= bound and found.other is None:
            verdict = "same"
        else:  # what has no fractions may differ, where rounding decides it
            verdict, wide = self._in_float64(found)
            found, tolerance = wide or (found, tolerance)
        passed = verdict == "same"
        return EquivalenceReport(
            passed,
            found.bitwise and (first is None or bool(tolerance)) and wrong is None,
            found.max_abs,
            found.max_rel,
            found.vacuous,
            nodes,
            None if passed else first,
            tolerance,
            rounding,
            time.perf_counter() - self.start,
            verdict,
            bound,
            wide is not None,
            found.constant,
            None if passed else found.other,
            parameters,
            wrong,
            exercised(model, *given),
        )

    def _is_exact(self) -> bool:
        return self.made.cob.is_exact and not any(p.dtype == torch.float16 for p in self.gm.parameters())

    def _tolerance(self, found: Comparison) -> tuple[float, float | None, float]:
        """What rounding allows for, the original's own rounding, and the bound."""
        bound = largest_tolerance(self.model, [a for a, _ in found.pairs])
        if found.dtypes <= _WIDE and found.max_rel <= FLOAT64:
            return FLOAT64, None, bound
        # A random network draws other numbers in float64: then its rounding is not known, and not allowed for.
        rounding = (
            0.0
            if self.draws.drawn
            else own_rounding(self.model, [a for a, _ in found.pairs], self.inputs, self.keyword_inputs)
        )
        tolerance = _MARGIN * rounding + 4 * max((torch.finfo(d).eps for d in found.dtypes), default=0.0)
        return max(FLOAT64, tolerance), rounding, bound

    def _in_float64(self, found: Comparison) -> tuple[Verdict, tuple[Comparison, float] | None]:
        """The verdict of float64 copies, their outputs and the tolerance of these; None where they decide nothing."""
        if found.dtypes <= _WIDE:
            return "cannot tell", None
        try:
            model, inputs, keyword_inputs = in_float64(self.model), doubled(self.inputs), doubled(self.keyword_inputs)
            gm = in_float64(self.gm) if self.made is None else self._emitted(model, inputs, keyword_inputs)
            if gm is None:
                return "cannot tell", None
            check = _Check(model, gm, inputs, keyword_inputs, self.draws, self.start)
            expected, actual = self.draws.same(
                lambda: run(model, inputs, keyword_inputs, False), lambda: run(gm, inputs, keyword_inputs, False)
            )
            wide = compared(expected.outputs, actual.outputs)
            tolerance, _, bound = check._tolerance(wide)
        except (RuntimeError, TeleportError, TypeError, ValueError, AttributeError):  # it insists on a number format
            return "cannot tell", None
        near = wide.max_rel <= tolerance
        # Weights of another origin that were rounded after they were scaled differ in float64, too.
        known = near or self.made is not None
        if not wide.dtypes <= _WIDE or tolerance > bound or wide.vacuous or not known:
            return "cannot tell", None
        return ("same" if near and wide.other is None else "different"), (wide, tolerance)

    def _emitted(self, model: nn.Module, inputs: Any, keyword_inputs: Any) -> nn.Module | None:
        """The network that the plan emits of the model in float64, if `gm` is that one, rounded."""
        from fxteleport.plan import plan

        made, gm = self.made, self.gm
        planned = plan(model, *inputs, mode=made.plan.mode, norm_stats=made.plan.norm_stats, **keyword_inputs)
        if planned.fingerprint != made.plan.fingerprint:
            return None
        wide = planned.rewrite(made.cob)
        own, other = ({n: b for n, b in m.named_buffers() if n not in made.plan.captured.metas} for m in (gm, wide))
        # A CoB, its inverse and (in a longer product) each factor are rounded.
        return wide if _operations(gm) == _operations(wide) and same_state(own, other, roundings=4) else None


def _operations(gm: nn.Module) -> list[tuple[str, str, str, str]]:
    """What a graph does: its nodes, with what they call and on what."""
    assert isinstance(gm, fx.GraphModule)
    return [(n.op, str(n.target), str(n.args), str(n.kwargs)) for n in gm.graph.nodes]
