"""Descent: minimises the noise by gradient steps on the logarithms, each in O(neurons)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fxteleport.ranges.box import Box
from fxteleport.ranges.objective import Format, noise
from fxteleport.ranges.statistics import Statistics

STEPS = 300
_RATE = 0.05


def descend(
    stats: Statistics, logs: Tensor, box: Box, form: Format, steps: int = STEPS, tick: Callable[[], None] = lambda: None
) -> Tensor:
    """The logarithms of a change of basis with less noise, starting at given ones: the best iterate.

    Adam, with a rate that falls to 0; the objective is convex, but its maxima have corners.
    """
    theta = logs.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([theta], lr=_RATE)
    best, least = logs, float(noise(stats, logs, form))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * (1 - step / steps)
        optimizer.zero_grad()
        value = noise(stats, theta, form)
        if float(value.detach()) < least:
            best, least = theta.detach().clone(), float(value.detach())
        value.backward()
        optimizer.step()
        with torch.no_grad():
            theta.copy_(box.put(theta))
        tick()
    last = theta.detach()
    return last.clone() if float(noise(stats, last, form)) < least else best
