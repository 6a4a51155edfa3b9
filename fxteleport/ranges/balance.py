"""Balance: ranges made alike in closed form, a step for all channels at once.

Where only its own value moves, a channel's best step is the weighted mean of what its ranges lack: of rows and inputs
with a plus, of columns with a minus. All channels step at once by half of that, since each range may hang on two values
(a majorisation: (a + b)^2 <= 2 a^2 + 2 b^2, so that no step goes up while the same elements are the largest).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxteleport.ranges.box import Box
from fxteleport.ranges.objective import Ranges, Weighing, balance, deviation, ranges
from fxteleport.ranges.statistics import Statistics

_STEPS = 60
_STILL = 1e-3  # mean step, in logarithms, at which it has converged


def balanced(found: Statistics, logs: Tensor, box: Box, weighing: Weighing, norm: str, steps: int = _STEPS) -> Tensor:
    """The logarithms of a balanced change of basis, from given ones on: the best that was visited."""
    best, least = logs, balance(found, ranges(found, logs, norm), weighing)
    for _ in range(steps):
        before = logs
        logs = box.put(logs + 0.5 * _step(found, ranges(found, logs, norm), weighing, len(logs)))
        value = balance(found, ranges(found, logs, norm), weighing)
        if value < least:
            best, least = logs, value
        if float((logs - before).abs().mean()) < _STILL:
            break
    return best


def _step(found: Statistics, at: Ranges, weighing: Weighing, num_free: int) -> Tensor:
    """Each free value's own best step."""
    step, total = (torch.zeros(num_free, dtype=torch.float64) for _ in range(2))
    listed = [(at.rows, found.rows, found.row_layer, -weighing.rows)]
    listed.append((at.columns, found.columns, found.column_layer, weighing.columns))
    if at.inputs is not None:
        listed.append((at.inputs, found.columns, found.column_layer, -weighing.inputs))
    for values, slots, layer, weight in listed:
        if weight:
            step += weight * slots.back(deviation(values, layer, found.layers), num_free)
            total += abs(weight) * slots.back(values.isfinite().double(), num_free, squared=True)
    return step / total.clamp_min(1e-12)
