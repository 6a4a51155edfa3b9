"""Balance: makes ranges alike by closed-form steps, for all channels at once.

If only its own value moves, a channel's best step is the weighted mean of its ranges' distances to their goals:
positive for rows and inputs, negative for columns. All channels step at once by half of that, since a range may depend
on two values (a majorisation: (a + b)^2 <= 2 a^2 + 2 b^2, so that no step raises the objective while the same elements
are the largest).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxteleport.ranges.box import Box
from fxteleport.ranges.objective import Ranges, Weighing, balance, deviation, ranges
from fxteleport.ranges.statistics import Statistics

_STEPS = 60
_STILL = 1e-3  # converged when the mean step, in logarithms, is below this


def balanced(stats: Statistics, logs: Tensor, box: Box, weighing: Weighing, norm: str, steps: int = _STEPS) -> Tensor:
    """The logarithms of a balanced change of basis, starting at given ones: the best iterate."""
    best, least = logs, balance(stats, ranges(stats, logs, norm), weighing)
    for _ in range(steps):
        before = logs
        logs = box.put(logs + 0.5 * _step(stats, ranges(stats, logs, norm), weighing, len(logs)))
        value = balance(stats, ranges(stats, logs, norm), weighing)
        if value < least:
            best, least = logs, value
        if float((logs - before).abs().mean()) < _STILL:
            break
    return best


def _step(stats: Statistics, at: Ranges, weighing: Weighing, num_free: int) -> Tensor:
    """The best step of each free value alone."""
    step, total = (torch.zeros(num_free, dtype=torch.float64) for _ in range(2))
    listed = [(at.rows, stats.rows, stats.row_layer, -weighing.rows)]
    listed.append((at.columns, stats.columns, stats.column_layer, weighing.columns))
    if at.inputs is not None:
        listed.append((at.inputs, stats.columns, stats.column_layer, -weighing.inputs))
    for values, slots, layer, weight in listed:
        if weight:
            step += weight * slots.back(deviation(values, layer, stats.layers), num_free)
            total += abs(weight) * slots.back(values.isfinite().double(), num_free, squared=True)
    return step / total.clamp_min(1e-12)
