"""Equalise one network: fold its norms, plan it, and rewrite it with the chosen change of basis."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from fxteleport.passes.errors import NothingFree
from fxteleport.passes.graph.containers import leaves
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.plan import Plan, plan
from fxteleport.ranges.equalize import Equalized, equalized
from fxteleport.ranges.fake_quantize import fake_quantize
from fxteleport.ranges.fold_norms import Folded, fold_norms, folded_norms
from fxteleport.tools.models.request import Loaded
from fxteleport.tools.options.equalize import Equalizing


@dataclass(frozen=True)
class Done:
    """An equalised network.

    Attributes:
        loaded: the planned network, with its norms folded.
        plan, found, network: its plan, the result of equalising, and the network after it.
        folded: the norms that were folded.
        errors: of the outputs with rounded weights, relative to the outputs: "before" and "after".
        seconds: the time of equalising.
    """

    loaded: Loaded
    plan: Plan
    found: Equalized
    network: fx.GraphModule
    folded: Folded
    errors: dict[str, float]
    seconds: float

    def facts(self, how: Equalizing, mode: str) -> dict[str, Any]:
        """Its facts, for JSON."""
        result = self.found
        return {
            "model": self.loaded.spec,
            "mode": mode,
            "norms": self.plan.norms,
            **how.settings(),
            "num_free": self.plan.num_free,
            "folded": len(self.folded.folded),
            "kept_norms": self.folded.kept,
            "objective": {"before": result.before, "after": result.after},
            "share": result.share,
            "noise": {"before": result.noise_before, "after": result.noise_after},
            "cob": {"smallest": float(result.cob.values.min()), "largest": float(result.cob.values.max())},
            "seconds": self.seconds,
            "conditions": [asdict(c) for c in self.plan.conditions],
        }


def run(loaded: Loaded, how: Equalizing, mode: str, step: Callable[..., None], norms: str = "exact") -> Done:
    """Fold, plan, equalise and rewrite.

    Without pictures the choice is measured on the example inputs, and nothing is taken if the outputs err more.

    Raises:
        NothingFree: the plan has no freedom to use.
        TeleportError: the network or the settings are wrong.
    """
    folded = Folded()
    if how.fold:
        model = fold_norms(loaded.model, *loaded.args, **loaded.kwargs)
        folded, loaded = folded_norms(model), replace(loaded, model=model)
    planned = plan(loaded.model, *loaded.args, **loaded.kwargs, mode=mode, norms=norms)
    start = time.perf_counter()
    data = None if how.images is None else list(loaded.args[0].split(8))
    if not planned.num_free:
        raise NothingFree(_why(planned))
    chosen = equalized(planned, data=data, progress=lambda what: step(what), **how.settings())
    seconds = time.perf_counter() - start
    step("measuring", 1)
    cobs = {"before": planned.identity(), "after": chosen.cob}
    errors = {name: _error(loaded, planned, cob, how) for name, cob in cobs.items()}
    if data is None and not errors["after"] <= errors["before"]:
        errors["after"] = errors["before"]
        chosen = replace(chosen, cob=cobs["before"], after=chosen.before, noise_after=chosen.noise_before, share=0.0)
    return Done(loaded, planned, chosen, planned.rewrite(chosen.cob), folded, errors, seconds)


def _why(plan: Plan) -> str:
    reasons = list(dict.fromkeys(g.why for g in plan.groups if g.kind == "pinned"))
    return "no neuron of this network is free (" + "; ".join(reasons[:3]) + ")"


@torch.no_grad()
def _error(loaded: Loaded, planned: Plan, cob: ChangeOfBasis, how: Equalizing) -> float:
    """The error of the outputs with rounded weights in a basis, relative to the outputs, on the network's inputs."""
    args, kwargs = loaded.args, loaded.kwargs
    expected = _tensors(loaded.model(*args, **kwargs))
    data = None if how.activation_bits is None else [args]
    rounded = fake_quantize(planned.rewrite(cob), how.bits, how.per_channel, how.activation_bits, data)
    actual = _tensors(rounded(*args, **kwargs))
    wrong = sum(float((a - b).double().square().sum()) for a, b in zip(actual, expected, strict=True))
    return math.sqrt(wrong / max(sum(float(b.double().square().sum()) for b in expected), 1e-300))


def _tensors(value: Any) -> list[Tensor]:
    return [x for x in leaves(value) if isinstance(x, Tensor) and x.is_floating_point()]
