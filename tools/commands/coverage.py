"""`fxteleport coverage`: survey every network of timm and torchvision, each under a time and a memory limit."""

from __future__ import annotations

import csv
import fnmatch
import logging
import math
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.text import Text

from fxteleport.atomic_files import write_text
from fxteleport.models import zoo
from fxteleport.passes.errors import CheckpointError, InputError, TeleportError
from fxteleport.tools.console import console, one_line, progress, write_json
from fxteleport.tools.models.devices import check_device
from fxteleport.tools.models.memory import free_memory, limit_memory
from fxteleport.tools.options import common
from fxteleport.tools.survey.network_survey import COLUMNS, Row, Terms, count_parameters, survey
from fxteleport.tools.survey.tables import document, summary

_PANEL = "Coverage"
_PEAK = 16  # bytes a parameter that a check may take: 13.5 were measured
_GOOD_PART = 0.4  # of a worker's memory
Filter = Annotated[str, typer.Option("--filter", rich_help_panel=_PANEL, help="Names by a pattern, as 'resnet*'.")]
Family = Annotated[
    str | None, typer.Option("--family", rich_help_panel=_PANEL, help="One family, as vision_transformer.")
]
Library = Annotated[
    str,
    typer.Option(
        "--library", rich_help_panel=_PANEL, metavar="|".join((*zoo.LIBRARIES, common.ALL)), help="Whose networks."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        rich_help_panel=_PANEL,
        help="A row a model, written as it is known (CSV); rows in it are kept. The tables go beside it, as .md.",
    ),
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", min=1, rich_help_panel=_PANEL, help="Worker processes. Default: one a core.")
]
Limit = Annotated[float, typer.Option("--time-limit", rich_help_panel=_PANEL, help="Seconds for one network.")]
Memory = Annotated[
    float | None,
    typer.Option(
        "--memory-limit", rich_help_panel=_PANEL, help="GB for one worker. Default: its share of what is free."
    ),
]
Budget = Annotated[
    float,
    typer.Option(
        "--budget",
        rich_help_panel=_PANEL,
        help="Billions of multiply-adds (estimated) of a checked forward; a costlier network gets a smaller input.",
    ),
]
Retry = Annotated[
    bool, typer.Option("--retry", rich_help_panel=_PANEL, help="Survey again what is in the file and is not exact.")
]


def coverage(
    filter: Filter = "*",
    family: Family = None,
    library: Library = common.ALL,
    output: Output = None,
    jobs: Jobs = None,
    time_limit: Limit = 900.0,
    memory_limit: Memory = None,
    budget: Budget = 4.0,
    retry: Retry = False,
    norm_stats: common.NormStats = "rescaled",
    json: common.Json = None,
    seed: common.Seed = 0,
    device: common.Device = "cpu",
) -> None:
    """Survey all networks of timm and torchvision: captured, planned, and proved equal.

    Example: fxteleport coverage --family mlp_mixer --output coverage.csv
    """
    out = console(json)
    if norm_stats == "wrapped":
        raise InputError("coverage plans in both modes: --norm-stats is fixed or rescaled")
    check_device(device)
    wanted = chosen(filter, family, library)
    known = {r.model: r for r in read_rows(output)} if output is not None and output.exists() else {}
    rows = {n: known[n] for n in wanted if n in known and (known[n].exact or not retry)}
    left = [n for n in wanted if n not in rows]
    workers = min(jobs or os.cpu_count() or 1, max(1, len(left)))
    terms = Terms(norm_stats, budget, memory_limit * 1e9 if memory_limit else math.inf, seed, device)
    if output is not None:
        write_rows(output, [r for n, r in known.items() if n not in left])
    with progress(len(wanted)) as step:
        step("measuring", len(rows))
        for row in surveyed(left, terms, workers, time_limit):
            rows[row.model] = row
            if output is not None:
                append_row(output, row)
            if not row.exact and (row.error or row.exact is False):
                out.print(Text(f"{row.model}: {row.error or 'not exact'}", style="red"))
            step(row.model, 1)
    ordered = [rows[n] for n in wanted]
    out.print(summary(ordered))
    if output is not None:
        write_rows(output, [rows.get(n) or known[n] for n in sorted({*known, *rows}, key=_order)])
        write_text(output.with_suffix(".md"), document(read_rows(output), _command()))
    write_json(json, [asdict(r) for r in ordered])
    if any(r.exact is False for r in ordered):
        raise typer.Exit(1)


def chosen(pattern: str, family: str | None, library: str) -> list[str]:
    """The networks that the options name.

    Raises:
        InputError: there are none.
    """
    common.one_of("--library", library, (*zoo.LIBRARIES, common.ALL))
    libraries = zoo.LIBRARIES if library == common.ALL else (library,)
    known = [n for each in libraries for n in zoo.names(each)]
    found = [
        n for n in known if fnmatch.fnmatch(n.removeprefix("torchvision/"), pattern) or fnmatch.fnmatch(n, pattern)
    ]
    if family is not None:
        found = [n for n in found if zoo.family(n) == family]
    if not found:
        hint = zoo.suggestion(family, {zoo.family(n) for n in known}) if family else ""
        raise InputError(f"no network is called '{pattern}'{f' in the family {family!r}' if family else ''}{hint}")
    return found


def parameters(name: str) -> int:
    """How many parameter elements a network has, found without allocating them; 0 if it cannot be built."""
    try:
        return count_parameters(name)
    except TeleportError:
        return 0


def surveyed(names: list[str], terms: Terms, workers: int, time_limit: float) -> Iterator[Row]:
    """Rows as they are known; a worker that crashes or takes too long is replaced, and its network says so.

    Smallest first: much is known early, and what may fail comes last. Networks that take a good part of a worker's
    memory get a new worker each, since none gives all of it back; those that take more come one at a time, with all of
    it and all cores.
    """
    cores = os.cpu_count() or 1
    shared = replace(terms, memory=min(terms.memory, 0.9 * free_memory() / workers))
    threads = max(1, cores // workers)
    with _pool(workers, threads, shared, 0) as pool:
        sizes = dict(zip(names, pool.map(parameters, names, chunksize=32).result(), strict=True))
        shares = {n: sizes[n] * _PEAK / shared.memory for n in sorted(names, key=lambda n: sizes[n])}
        yield from _rows(pool, [n for n, share in shares.items() if share < _GOOD_PART], shared, time_limit)
    with _pool(workers, threads, shared, 1) as pool:
        yield from _rows(pool, [n for n, share in shares.items() if _GOOD_PART <= share < 1], shared, time_limit)
    whole = replace(terms, memory=min(terms.memory, 0.9 * free_memory()))
    with _pool(1, cores, whole, 1) as pool:
        yield from _rows(pool, [n for n, share in shares.items() if share >= 1], whole, time_limit)


def _pool(workers: int, threads: int, terms: Terms, max_tasks: int) -> Any:
    from pebble import ProcessPool

    return ProcessPool(
        workers, max_tasks, initializer=_prepare, initargs=(threads, terms), context=get_context("spawn")
    )


def _rows(pool: Any, names: Sequence[str], terms: Terms, time_limit: float) -> Iterator[Row]:
    from pebble import ProcessExpired

    tasks: dict[Any, str] = {pool.schedule(survey, args=(name, terms), timeout=time_limit): name for name in names}
    try:
        for task in futures.as_completed(tasks):
            name = tasks[task]
            try:
                yield task.result()
            except futures.TimeoutError:  # another than Python's before 3.11
                yield _unfinished(name, f"took longer than {time_limit:g} s", time_limit)
            except ProcessExpired as error:
                yield _unfinished(name, f"its process died with status {error.exitcode}", None)
            except Exception as error:
                yield _unfinished(name, one_line(error), None)
    except BaseException:
        pool.stop()
        raise


def _unfinished(name: str, why: str, seconds: float | None) -> Row:
    return Row(name, zoo.LIBRARIES[name.startswith("torchvision/")], zoo.family(name), error=why, seconds=seconds)


def _prepare(threads: int, terms: Terms) -> None:
    """A worker: quiet, with its share of the cores and of the memory."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    if terms.device == "cpu" and math.isfinite(terms.memory):  # CUDA reserves more addresses than it uses
        limit_memory(int(terms.memory))


# -- files -----------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[Row]:
    """The rows of a coverage file.

    Raises:
        CheckpointError: it is no such file.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise CheckpointError(f"'{path}' has other columns than a coverage file: write to another file")
            rows = []
            for line in reader:
                if None in line or None in line.values():
                    raise CheckpointError(f"line {reader.line_num} of '{path}' has not one field a column: remove it")
                rows.append(Row(**{k: _parsed(k, v) for k, v in line.items()}))
            return rows
    except (OSError, ValueError, csv.Error) as error:
        raise CheckpointError(f"cannot read '{path}': {error}") from None


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replace a coverage file."""
    lines = [",".join(COLUMNS) + "\n", *map(_line, rows)]
    write_text(path, "".join(lines))


def append_row(path: Path, row: Row) -> None:
    """Add a row to a coverage file.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
    except OSError as error:
        raise CheckpointError(f"cannot write '{path}': {error.strerror or error}") from None


def _line(row: Row) -> str:
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow("" if v is None else v for v in asdict(row).values())
    return text.getvalue()


def _parsed(column: str, text: str) -> Any:
    kind = str(Row.__dataclass_fields__[column].type)
    if text == "":
        return None if "None" in kind else text
    if "bool" in kind:
        return text == "True"
    return int(text) if "int" in kind else float(text) if "float" in kind else text


def _order(name: str) -> tuple[bool, str]:
    return name.startswith("torchvision/"), name


def _command() -> str:
    import sys

    return " ".join(["fxteleport", *sys.argv[1:]]) + time.strftime("  # %Y-%m-%d")
