"""Timing: alternating runs, so that a busy machine slows all of them alike, and medians with their quartiles."""

from __future__ import annotations

import contextlib
import gc
import io
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Seconds = list[float]


@dataclass(frozen=True)
class Figure:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def figure(values: Sequence[float], unit: float = 1.0) -> Figure:
    """The figure of at least two values, in a unit."""
    low, median, high = statistics.quantiles([v / unit for v in values], n=4, method="inclusive")
    return Figure(median, low, high)


def ratio(ones: Seconds | None, others: Seconds | None) -> Figure | None:
    """The ratios of two runs' times, turn by turn; None where a side could not run."""
    if ones is None or others is None:
        return None
    return figure([one / other for one, other in zip(ones, others, strict=True)])


def alternate(runs: Sequence[Callable[[], Any] | None], repeats: int) -> list[Seconds | None]:
    """Seconds of each turn of each run; None for one that is None or fails. The first round warms up.

    Garbage is collected before each turn, so that no run pays for another's.
    """
    times: list[Seconds | None] = [None if run is None else [] for run in runs]
    for turn in range(repeats + 1):
        for i, run in enumerate(runs):
            kept = times[i]
            if run is None or kept is None:
                continue
            try:
                with quiet():
                    gc.collect()
                    _wait()
                    start = time.perf_counter()
                    run()
                    _wait()
                    seconds = time.perf_counter() - start
            except Exception:
                times[i] = None
                continue
            if turn:
                kept.append(seconds)
    return times


def _wait() -> None:
    """Wait until a GPU has finished."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


@contextlib.contextmanager
def quiet() -> Any:
    """Nothing is printed: fx's ShapeProp prints its errors, others their progress."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
