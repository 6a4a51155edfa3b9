"""Jobs: checking one network, with every error turned into a record; many jobs in many processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fxteleport.passes.errors import TeleportError
from fxteleport.tools.checking.compare_with import against
from fxteleport.tools.checking.full_matrix import check_everything
from fxteleport.tools.checking.records import Outcome, Record, blank, measured, record, verdict
from fxteleport.tools.checking.session import run
from fxteleport.tools.console import one_line
from fxteleport.tools.models import load
from fxteleport.tools.models.request import Loaded, Request
from fxteleport.tools.options.check import Execution
from fxteleport.tools.options.common import Settings
from fxteleport.tools.worker_pool import Failure, WorkerPool


@dataclass(frozen=True)
class Job:
    """One network with one seed, and the ways to check it.

    Attributes:
        against: what to compare it with, instead of teleporting it.
        paranoid: check the full matrix of settings.
    """

    spec: str
    wanted: Request
    variants: tuple[Settings, ...]
    execution: Execution | None = None
    against: str | None = None
    paranoid: bool = False


def perform(job: Job) -> Iterator[Outcome]:
    """The outcomes of a job, as they come. Raises nothing: an error is an outcome, too."""
    done = 0
    try:
        if job.paranoid:
            reports = check_everything(job.spec, job.wanted, job.variants[0])
        else:
            reports = _compared(load.load(job.spec, job.wanted), job)
        for outcome in reports:
            done += 1
            yield outcome
    except Exception as error:
        why = one_line(error if isinstance(error, TeleportError) else Exception(f"{type(error).__name__}: {error}"))
        for variant in job.variants[done:] or (job.variants[:1] if job.paranoid else ()):
            yield failed(job, variant, why)


def _compared(loaded: Loaded, job: Job) -> Iterator[Outcome]:
    if job.against is not None:
        report, executed = against(loaded, job.against, job.wanted, job.execution)
        own = {"against": job.against, "parameters": loaded.parameters, "batch": loaded.batch}
        facts = _blank(job, job.variants[0]) | measured(report, executed) | own
        facts |= {"passed": report.passed and (executed is None or executed.passed)}
        facts |= {"seconds": {"verify": report.seconds + (executed.seconds if executed else 0.0)}}
        yield facts, verdict(report, executed)
        return
    for settings in job.variants:
        try:
            done = run(loaded, settings, execution=job.execution)
        except TeleportError as error:
            yield failed(job, settings, one_line(error))
            continue
        facts = record(loaded.spec, settings, job.wanted, done)
        yield facts, verdict(done.report, done.executed)


def failed(job: Job, settings: Settings, why: str) -> Outcome:
    """The outcome of a check that could not be made."""
    return _blank(job, settings) | {"error": why}, why


def _blank(job: Job, settings: Settings) -> Record:
    """The record of a comparison of two networks, without the fields of a teleportation."""
    facts = blank(job.wanted.named(job.spec), settings, job.wanted)
    unused = ("mode", "norm_stats", "exact", "landscape", "cob_range") if job.against is not None else ()
    return facts | dict.fromkeys(unused) | {"against": job.against}


def perform_all(
    jobs: Sequence[Job], workers: int, step: Callable[..., None] = lambda *_: None
) -> Iterator[tuple[int, Outcome]]:
    """The outcomes of many jobs as they come, each with the number of its job.

    `step` is called when a job starts, and when it is done.
    """
    if workers <= 1 or len(jobs) <= 1:
        for i, job in enumerate(jobs):
            step(job.spec)
            yield from ((i, outcome) for outcome in perform(job))
            step(job.spec, 1)
        return
    with WorkerPool(min(workers, len(jobs))) as pool:
        for i, outcomes in pool.run(_listed, [(job,) for job in jobs]):
            if isinstance(outcomes, Failure):
                outcomes = [failed(jobs[i], variant, str(outcomes)) for variant in jobs[i].variants]
            yield from ((i, outcome) for outcome in outcomes)
            step(jobs[i].spec, 1)


def _listed(job: Job) -> list[Outcome]:
    return list(perform(job))
