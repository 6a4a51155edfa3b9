"""Verify: do a network and its teleported version compute the same function, end to end and at every node?

Under a CoB of powers of two the comparison needs no tolerance (except in float16, whose range such a CoB can leave):
every value must be the original's times tau to the last bit. Under any other CoB the teleported network's error may be
no larger than the original's own rounding explains. Where that rounding is too large for a verdict, float64 copies of
both networks decide; where these cannot either, the verdict is "cannot tell", which is a failure.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxteleport.arguments import require_module
from fxteleport.passes.errors import InputError
from fxteleport.passes.graph.exported import is_program
from fxteleport.passes.rewrite.restored_epsilons import with_epsilons
from fxteleport.passes.rewrite.teleported_network import TeleportedModule
from fxteleport.plan.emission import rewrite
from fxteleport.plan.factors import tau
from fxteleport.plan.programs import inputs_of, module_of
from fxteleport.verify.decide import verdict_in_float64, verdict_on
from fxteleport.verify.parameters import compare_parameters, exercised
from fxteleport.verify.random_numbers import Draws
from fxteleport.verify.report import Difference, EquivalenceReport, TensorDifference, Verdict
from fxteleport.verify.stepping import Watch, compare_nodes, no_one
from fxteleport.verify.tolerance import BITWISE, Pair, tolerance_of
from fxteleport.verify.underflow import Carried
from fxteleport.verify.undisturbed import evaluating, may_write_weights, undisturbed

if TYPE_CHECKING:
    from torch.export import ExportedProgram


@torch.no_grad()
def verify(
    model: nn.Module | ExportedProgram, gm: nn.Module | ExportedProgram, *inputs: Any, **keyword_inputs: Any
) -> EquivalenceReport:
    """Compare a network with its teleported version in eval mode, on given inputs.

    All outputs are compared, of any kind. If `gm` was emitted by `plan.rewrite`, its parameters are compared with the
    model's times their factors, and every node is compared, too. Neither network is changed.

    Exported programs are compared as their modules, by default on the inputs with which the first one was exported. The
    nodes of an emitted program are those of the network from which it was exported.

    For a plan with `norms="scaled"`, a copy with scaled epsilons is compared, which must be exact. The difference of
    the network itself is `epsilon_gap`.

    Raises:
        ModelError: an argument is no network, or does not run on these inputs.
        InputError: there are no inputs, or the outputs have different structures, shapes or types.
    """
    return watched(model, gm, inputs, keyword_inputs)


@torch.no_grad()
def watched(
    model: nn.Module | ExportedProgram,
    gm: nn.Module | ExportedProgram,
    inputs: tuple[Any, ...],
    keyword_inputs: dict[str, Any],
    watch: Watch = no_one,
) -> EquivalenceReport:
    """As `verify` (its errors too); `watch` is called with the values of each node that is compared."""
    if is_program(model) and not (inputs or keyword_inputs):
        inputs, keyword_inputs = inputs_of(model)
    original: nn.Module = module_of(model) if is_program(model) else model  # type: ignore[assignment]
    network: nn.Module = module_of(gm) if is_program(gm) else gm  # type: ignore[assignment]
    require_module(original, "the first network")
    require_module(network, "the second network")
    if not inputs and not keyword_inputs:
        raise InputError("verify needs the inputs to compare the two networks on")
    start = time.perf_counter()
    draws = Draws(network)
    writes = may_write_weights(network)
    with undisturbed(original, network, weights=writes), evaluating(original), evaluating(network), draws.kept():
        pair = Pair(original, network, inputs, keyword_inputs, draws, writes)
        restored = _restored(pair)
        if restored is None:
            return _report(pair, start, watch)
        report = _report(replace(pair, teleported=restored), start, watch)
        gap = pair.compared()[0].max_rel
        return replace(report, epsilon_gap=gap, bitwise_equal=report.bitwise_equal and gap == 0)


def _restored(pair: Pair) -> nn.Module | None:
    """A copy with scaled epsilons of a network with fixed ones (`norms="scaled"`); None for any other network."""
    teleportation = pair.teleportation
    if teleportation is None or teleportation.plan.norms == "exact":
        return None
    plan = teleportation.plan
    return with_epsilons(pair.teleported, plan.scaled_norms, tau(plan, teleportation.cob))  # type: ignore[arg-type]


def _report(pair: Pair, start: float, watch: Watch) -> EquivalenceReport:
    outputs, written = pair.compared()
    bitwise = outputs.bitwise if pair.teleportation is None else _must_be_bitwise(pair)
    tolerance = BITWISE if bitwise else tolerance_of(pair, outputs)
    errors, compared, first, underflows, parameters, wrong = _inside(pair, written, tolerance.value, watch)
    verdict = verdict_on(outputs, tolerance, first is None, wrong is None)
    applied = tolerance.value
    wide = verdict_in_float64(pair, outputs) if verdict is None else None
    if wide is not None:
        verdict, outputs, applied = wide
    final: Verdict = verdict or "cannot tell"
    passed = final == "same"
    return EquivalenceReport(
        passed=passed,
        bitwise_equal=outputs.bitwise and (first is None or bool(applied)) and wrong is None,
        max_abs=outputs.max_abs,
        max_rel=outputs.max_rel,
        vacuous=outputs.vacuous,
        nodes=compared,
        first_difference=None if passed else first,
        tolerance=applied,
        rounding=tolerance.rounding,
        seconds=time.perf_counter() - start,
        verdict=final,
        bound=tolerance.bound,
        float64=wide is not None,
        constant_outputs=outputs.constant,
        different_output=None if passed else outputs.other,
        parameters=parameters,
        wrong_parameter=wrong,
        exercised=exercised(pair.model, pair.inputs, pair.keyword_inputs),
        underflows=underflows,
        node_errors=errors,
    )


def _must_be_bitwise(pair: Pair) -> bool:
    """True for a CoB whose scaling rounds nothing."""
    assert pair.teleportation is not None
    return pair.teleportation.cob.is_exact and not any(p.dtype == torch.float16 for p in pair.teleported.parameters())


def _inside(
    pair: Pair, written: frozenset[str], tolerance: float, watch: Watch
) -> tuple[dict[str, float], int, Difference | None, int, int, TensorDifference | None]:
    """Compare the nodes and the parameters of an emitted network.

    Returns:
        the nodes' errors, the number of nodes, the first that differs, the number of elements that lost bits; the
        number of parameters, and the first that differs.
    """
    if pair.teleportation is None:
        return {}, 0, None, 0, 0, None
    network = pair.teleported
    parameters = compare_parameters(pair.teleportation, pair.model, network, written)
    if not isinstance(network, TeleportedModule):  # a program that was exported from a network
        network = rewrite(pair.teleportation.plan, pair.teleportation.cob)
    inputs, carried = (pair.inputs, pair.keyword_inputs), Carried()
    nodes = compare_nodes(pair.teleportation, network, *inputs, tolerance, watch)
    if tolerance == 0 and nodes[2] is not None:  # bits lost by underflow, or a wrong rule
        recomputed = compare_nodes(pair.teleportation, network, *inputs, tolerance, carried=carried)
        nodes = recomputed if carried.count and recomputed[2] is None else nodes
    return *nodes, carried.count * (nodes[2] is None), *parameters
