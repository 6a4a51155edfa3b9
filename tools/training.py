"""Training: do two networks compute the same function in train mode, batch statistics and dropout included?"""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import nn

from fxteleport.tools.models import seeded
from fxteleport.verify import FLOAT64, EquivalenceReport, difference, equal, is_vacuous, own_copy, paired


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
    pairs = paired(expected, actual)
    vacuous = not pairs or any(is_vacuous(a) for a, _ in pairs)
    bitwise = all(equal(a, b) for a, b in pairs)
    found = [difference(a, b) for a, b in pairs]
    max_abs, max_rel = max((f[0] for f in found), default=0.0), max((f[1] for f in found), default=0.0)
    tolerance = 0.0 if exact else FLOAT64
    passed = not vacuous and (bitwise or (not exact and max_rel <= tolerance))
    spent = time.perf_counter() - start
    return EquivalenceReport(passed, bitwise, max_abs, max_rel, vacuous, 0, None, tolerance, None, spent)


def _outputs(network: nn.Module, args: Any, kwargs: Any, seed: int) -> list[Any]:
    """A network's outputs in train mode and then in eval mode."""
    found = []
    for training in (True, False):
        own = own_copy((args, kwargs))
        with seeded(seed):
            found.append(network.train(training)(*own[0], **own[1]))
    return found
