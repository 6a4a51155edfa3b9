"""The verdict on two networks: by their outputs or, where rounding is too large, by those of float64 copies."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from fxteleport.passes.errors import TeleportError
from fxteleport.passes.rewrite.restored_epsilons import with_epsilons
from fxteleport.plan.plan import plan
from fxteleport.plan.teleportation import Teleportation
from fxteleport.verify.compare import Comparison
from fxteleport.verify.float64 import doubled, in_float64
from fxteleport.verify.parameters import same_state
from fxteleport.verify.report import Verdict
from fxteleport.verify.tolerance import WIDE, Pair, Tolerance, tolerance_of


def verdict_on(outputs: Comparison, tolerance: Tolerance, nodes_agree: bool, parameters_agree: bool) -> Verdict | None:
    """The verdict on two networks; None where their rounding is too large for one."""
    if outputs.vacuous:
        return "vacuous"
    if not parameters_agree:
        return "different"
    if tolerance.bound is None:
        return "same" if outputs.bitwise and nodes_agree else "different"
    if not outputs.max_rel <= tolerance.value or (outputs.other is not None and outputs.max_abs == 0):
        return "different"
    if tolerance.value <= tolerance.bound and outputs.other is None:
        return "same"
    return None  # rounding may change integers and booleans, too


def verdict_in_float64(pair: Pair, outputs: Comparison) -> tuple[Verdict, Comparison, float] | None:
    """The verdict on float64 copies of two networks, with their outputs and the tolerance; None if undecided."""
    if outputs.dtypes <= WIDE:
        return None
    try:
        copies = _in_float64(pair)
        if copies is None:
            return None
        wide, _ = copies.compared()
        tolerance = tolerance_of(copies, wide)
    except (RuntimeError, TeleportError, TypeError, ValueError, AttributeError):  # it needs its number format
        return None
    assert tolerance.bound is not None
    near = wide.max_rel <= tolerance.value
    # Weights of another origin that were rounded after they were scaled differ in float64, too.
    meaningful = near or pair.teleportation is not None
    if not wide.dtypes <= WIDE or tolerance.value > tolerance.bound or wide.vacuous or not meaningful:
        return None
    return "same" if near and wide.other is None else "different", wide, tolerance.value


def _in_float64(pair: Pair) -> Pair | None:
    model, inputs, keyword_inputs = in_float64(pair.model), doubled(pair.inputs), doubled(pair.keyword_inputs)
    if pair.teleportation is None:
        return Pair(model, in_float64(pair.teleported), inputs, keyword_inputs, pair.draws, writes=False)
    emitted = _emitted(pair.teleportation, pair.teleported, model, inputs, keyword_inputs)
    return None if emitted is None else Pair(model, emitted, inputs, keyword_inputs, pair.draws, writes=False)


def _emitted(
    teleportation: Teleportation,
    network: nn.Module,
    model: nn.Module,
    inputs: tuple[object, ...],
    keywords: dict[str, object],
) -> nn.Module | None:
    """The network that a plan of the float64 model emits; None unless `network` is the same, rounded."""
    of = teleportation.plan
    settings: Any = {"mode": of.mode, "norm_stats": of.norm_stats, "data_guards": of.data_guards, "norms": of.norms}
    settings |= {"cached": of.cached, "calls": [(doubled(args), doubled(kwargs)) for args, kwargs in of.calls]}
    wide_plan = plan(model, *inputs, **settings, **keywords)  # type: ignore[arg-type]
    if wide_plan.fingerprint != teleportation.plan.fingerprint:
        return None
    wide = wide_plan.rewrite(teleportation.cob)
    if of.norms == "scaled":
        wide = with_epsilons(wide, wide_plan.scaled_norms, wide_plan.tau(teleportation.cob)) or wide
    metas = teleportation.plan.captured.metas
    own, other = ({n: b for n, b in m.named_buffers() if n not in metas} for m in (network, wide))
    # A CoB, its inverse and (in a longer product) each factor are rounded.
    return wide if _operations(network) == _operations(wide) and same_state(own, other, roundings=4) else None


def _operations(network: nn.Module) -> list[tuple[str, str, str, str]]:
    """A graph's nodes with their targets and arguments, for comparison."""
    assert isinstance(network, fx.GraphModule)
    return [(n.op, str(n.target), str(n.args), str(n.kwargs)) for n in network.graph.nodes]
