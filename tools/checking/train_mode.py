"""Train mode: do two networks compute the same function in train mode, batch statistics and dropout included?"""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import nn

from fxteleport.tools.models.determinism import seeded
from fxteleport.verify import FLOAT64, EquivalenceReport, compare, own_copy
from fxteleport.verify.report import Verdict


@torch.no_grad()
def verify_training(
    model: nn.Module, network: nn.Module, args: Any, kwargs: Any, exact: bool, seed: int = 0
) -> EquivalenceReport:
    """Compare copies of two networks in train mode with the same random numbers, and afterwards in eval mode.

    Args:
        exact: to the last bit; else to float64's rounding.

    Raises:
        InputError: the outputs have different structures.
    """
    start = time.perf_counter()
    expected, actual = (_outputs(copy.deepcopy(net), args, kwargs, seed) for net in (model, network))
    difference = compare(expected, actual)
    tolerance = 0.0 if exact else FLOAT64
    same = difference.bitwise or (not exact and difference.max_rel <= tolerance and difference.other is None)
    verdict: Verdict = "vacuous" if difference.vacuous else "same" if same else "different"
    passed = verdict == "same"
    return EquivalenceReport(
        passed,
        difference.bitwise,
        difference.max_abs,
        difference.max_rel,
        difference.vacuous,
        0,
        None,
        tolerance,
        None,
        time.perf_counter() - start,
        verdict,
        constant_outputs=difference.constant,
        different_output=None if passed else difference.other,
    )


def _outputs(network: nn.Module, args: Any, kwargs: Any, seed: int) -> list[Any]:
    """A network's outputs in train mode and then in eval mode."""
    results = []
    for training in (True, False):
        own = own_copy((args, kwargs))
        with seeded(seed):
            results.append(network.train(training)(*own[0], **own[1]))
    return results
