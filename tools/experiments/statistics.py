"""Statistics of the verdicts: bootstrap confidence intervals over independent runs, and rank correlation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

Array = np.ndarray[Any, Any]
Interval = tuple[float, float, float]


def bootstrap(
    runs: Sequence[Any],
    statistic: Callable[[Array], float] = np.mean,  # type: ignore[assignment]
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """A statistic of independent runs with its percentile bootstrap interval: (value, low, high); of one run, no width.

    Args:
        runs: one entry a run: a number, or a row of numbers that belong together.
        statistic: of an array [runs, ...].
    """
    data = np.asarray(runs, dtype=float)
    if not len(data):
        return float("nan"), float("nan"), float("nan")
    value = float(statistic(data))
    if len(data) == 1:  # scipy resamples no fewer than two
        return value, value, value
    interval = stats.bootstrap(
        (np.arange(len(data)),),  # runs are resampled by their number, so that the numbers of one run stay together
        lambda chosen: statistic(data[chosen]),
        n_resamples=draws,
        confidence_level=confidence,
        method="percentile",
        vectorized=False,
        random_state=np.random.default_rng(seed),
    )
    return value, float(interval.confidence_interval.low), float(interval.confidence_interval.high)


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation; 0 where one of the two is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(stats.spearmanr(x, y).statistic)


def trend(table: Sequence[Sequence[float]], levels: Sequence[float]) -> Interval:
    """How surely a measurement rises with a level: the mean rank correlation of the runs, [runs, levels]."""
    return bootstrap([spearman(levels, row) for row in table])
