"""`fxteleport check`: do networks keep their function when teleported, or do two networks compute the same one?"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

import typer

from fxteleport.atomic_files import write_text
from fxteleport.passes.errors import CheckpointError, InputError
from fxteleport.tools.console import Output, console, json_line, write_json
from fxteleport.tools.options import check as own
from fxteleport.tools.options import common

if TYPE_CHECKING:
    from fxteleport.tools.checking.parallel import Job
    from fxteleport.tools.checking.records import Outcome, Record


def check(
    model: own.Specs = None,
    *,
    which: own.Which,
    source: common.Source,
    law: common.Law,
    mode: own.Modes = "full",
    norm_stats: own.AllNormStats = "fixed",
    norms: common.Norms = "exact",
    how: own.How,
    execution: own.Execution,
    results: own.Results,
) -> None:
    """Check that teleportation keeps the function of networks, or that two networks have the same one.

    Example: fxteleport check resnet18 vit_tiny_patch16_224 --exact --mode all
    """
    _fit_together(source, execution, which)
    out = console(results.printed)
    variants, seeds = law.variants(mode, norm_stats, norms), range(law.seed, law.seed + which.seeds)
    with out.starting():
        from fxteleport.tools.checking.compare_with import check_against
        from fxteleport.tools.checking.console_matrix import Matrix
        from fxteleport.tools.checking.console_table import Table, summarize
        from fxteleport.tools.checking.junit import junit
        from fxteleport.tools.checking.parallel import Job
        from fxteleport.tools.models.load import check_spec
        from fxteleport.tools.models.selection import select
        from fxteleport.tools.worker_pool import in_order

        wanted = how.request(source.request(law.seed))
        specs = select(model or (), which.family or ())
        for spec in specs:
            check_spec(spec, wanted)
    if which.against is not None:
        if len(specs) > 1:
            raise InputError(f"--against compares one network with another, and {len(specs)} are named")
        check_against(which.against, wanted)
        variants = variants[:1]
    todo = [
        Job(
            spec,
            replace(wanted, seed=s),
            tuple(replace(v, seed=s) for v in variants),
            execution,
            which.against,
            which.paranoid,
        )
        for spec in specs
        for s in seeds
    ]
    start = time.perf_counter()
    several = len(variants) * len(seeds) > 1
    with _lines(results.jsonl, out) as write, out.progress(len(todo)) as step:
        table = Matrix(out) if which.paranoid else Table(out, several, wordy=len(todo) == 1 and not several)
        outcomes = in_order(_watched(todo, how.jobs, step, lambda o: (table.add(o), write(o[0]))))
    table.close()
    records = [r for r, _ in outcomes]
    summarize(out, records, time.perf_counter() - start)
    write_json(results.json, records)
    if results.junit is not None:
        write_text(results.junit, junit(outcomes))
    if any("error" in r for r in records):  # what could not be run is wrong input, not a failed check
        raise typer.Exit(2)
    if not all(r["passed"] for r in records):
        raise typer.Exit(1)


def _fit_together(source: common.Source, execution: own.Execution, which: own.Which) -> None:
    """Raise InputError for options that do not."""
    if execution.amp and source.dtype != "float32":
        raise InputError("--amp runs a float32 network in bfloat16 where that is safe: leave --dtype at float32")
    if which.paranoid and (execution or which.against is not None):
        raise InputError("--paranoid goes with none of --amp, --compile and --against: call check twice")


def _watched(
    todo: list[Job], workers: int, step: Callable[..., None], tell: Callable[[Outcome], object]
) -> Iterator[tuple[int, Outcome]]:
    """The outcomes of jobs, each printed as it comes, with a progress bar."""
    from fxteleport.tools.checking.parallel import perform_all

    if workers > 1:
        step(f"checking, {min(workers, len(todo))} at a time")
    for i, outcome in perform_all(todo, workers, step):
        tell(outcome)
        yield i, outcome


@contextlib.contextmanager
def _lines(path: str | None, out: Output) -> Iterator[Callable[[Record], None]]:
    """A function that writes a record as a line of JSON at once."""
    with contextlib.ExitStack() as stack:
        file: BinaryIO | None = None  # unbuffered, so that closing it writes nothing
        if path is not None and path != "-":
            try:
                file = stack.enter_context(open(path, "wb", buffering=0))
            except OSError as error:
                raise CheckpointError(f"cannot write '{path}': {error.strerror or error}") from None

        def write(record: Record) -> None:
            if path == "-":
                out.write(json_line(record))
            elif file is not None:
                try:
                    file.write(json_line(record).encode())
                except OSError as error:  # a full disk
                    raise CheckpointError(f"cannot write '{path}': {error.strerror or error}") from None

        yield write
