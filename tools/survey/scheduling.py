"""Many networks surveyed at once, by worker processes that share the machine's memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from fxteleport.models import zoo
from fxteleport.passes.errors import TeleportError
from fxteleport.tools.models.memory import free_memory
from fxteleport.tools.survey.building import count_parameters
from fxteleport.tools.survey.network_survey import survey
from fxteleport.tools.survey.row import Row, Terms
from fxteleport.tools.worker_pool import Failure, Limits, TimeLimitError, WorkerPool, in_order

_PEAK = 16  # bytes a parameter that a check may take: 13.5 were measured
_GOOD_PART = 0.4  # of a worker's memory


def parameters(name: str) -> int:
    """The number of a network's parameter elements, without allocating them; 0 if it cannot be built."""
    try:
        return count_parameters(name)
    except TeleportError:
        return 0


def surveyed(names: list[str], terms: Terms, workers: int, time_limit: float) -> Iterator[Row]:
    """Rows as they are done; a worker that crashes or takes too long is replaced, and the row has the error.

    The smallest networks come first. Networks that need a good part of a worker's memory get a new worker each, since
    workers do not free all memory; those that need more run one at a time, with all memory and all cores.
    """
    shared = replace(terms, memory=min(terms.memory, 0.9 * free_memory() / workers))
    with WorkerPool(workers, _limits(shared, time_limit)) as pool:
        counts = in_order(pool.run(parameters, [(name,) for name in names]))
        sizes = {name: 0 if isinstance(size, Failure) else size for name, size in zip(names, counts, strict=True)}
        shares = {n: sizes[n] * _PEAK / shared.memory for n in sorted(names, key=lambda n: sizes[n])}
        yield from _rows(pool, [n for n, share in shares.items() if share < _GOOD_PART], shared)
    if large := [n for n, share in shares.items() if _GOOD_PART <= share < 1]:
        with WorkerPool(workers, replace(_limits(shared, time_limit), calls=1)) as pool:
            yield from _rows(pool, large, shared)
    wide_terms = replace(terms, memory=min(terms.memory, 0.9 * free_memory()))
    if largest := [n for n, share in shares.items() if share >= 1]:
        with WorkerPool(1, replace(_limits(wide_terms, time_limit), calls=1)) as pool:
            yield from _rows(pool, largest, wide_terms)


def _limits(terms: Terms, seconds: float) -> Limits:
    limited = terms.device == "cpu" and math.isfinite(terms.memory)  # CUDA reserves more addresses than it uses
    return Limits(seconds, int(terms.memory) if limited else None)


def _rows(pool: WorkerPool, names: Sequence[str], terms: Terms) -> Iterator[Row]:
    for i, row in pool.run(survey, [(name, terms) for name in names]):
        if isinstance(row, Failure):
            seconds = pool.limits.seconds if isinstance(row.error, TimeLimitError) else None
            row = _unfinished(names[i], str(row), seconds)
        yield row


def _unfinished(name: str, why: str, seconds: float | None) -> Row:
    return Row(name, zoo.LIBRARIES[name.startswith("torchvision/")], zoo.family(name), error=why, seconds=seconds)
