"""Statistics of the verdicts: bootstrap confidence intervals over independent runs, and rank correlation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Interval = tuple[float, float, float]


def bootstrap(
    runs: Sequence[Any],
    statistic: Callable[[Array], float] = np.mean,  # type: ignore[assignment]
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """A statistic of independent runs with its percentile bootstrap interval: (value, low, high).

    Args:
        runs: one entry a run: a number, or a row of numbers that belong together.
        statistic: of an array [runs, ...].
    """
    data = np.asarray(runs, dtype=float)
    if not len(data):
        return float("nan"), float("nan"), float("nan")
    random = np.random.default_rng(seed)
    found = [statistic(data[random.integers(0, len(data), len(data))]) for _ in range(draws)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(statistic(data)), float(low), float(high)


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation; 0 where one of the two is constant."""
    from scipy.stats import rankdata

    a, b = rankdata(x), rankdata(y)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def trend(table: Sequence[Sequence[float]], levels: Sequence[float]) -> Interval:
    """How surely a measurement rises with a level: the mean rank correlation of the runs, [runs, levels]."""
    return bootstrap([spearman(levels, row) for row in table])
