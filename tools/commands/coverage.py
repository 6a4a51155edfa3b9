"""`fxteleport coverage`: survey every network of timm and torchvision, each under a time and a memory limit."""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fxteleport.atomic_files import require_writable, write_text
from fxteleport.models import zoo
from fxteleport.passes.errors import InputError
from fxteleport.tools.console import console, write_json
from fxteleport.tools.options import common

_PANEL = "Coverage"
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
    for path in () if output is None else (output, output.with_suffix(".md")):
        if require_writable(path) is None:
            raise InputError(f"coverage reads again what it wrote, so --output is a regular file; '{path}' is none")

    with out.starting():
        from fxteleport.tools.models.devices import check_device
        from fxteleport.tools.survey.row import Terms
        from fxteleport.tools.survey.rows_file import append_row, read_rows, write_rows
        from fxteleport.tools.survey.scheduling import surveyed
        from fxteleport.tools.survey.selection import chosen
        from fxteleport.tools.survey.tables import document, summary

    check_device(device)
    wanted = chosen(filter, family, library)
    known = {r.model: r for r in read_rows(output)} if output is not None and output.exists() else {}
    rows = {n: known[n] for n in wanted if n in known and (known[n].exact or not retry)}
    left = [n for n in wanted if n not in rows]
    workers = min(jobs or os.cpu_count() or 1, max(1, len(left)))
    terms = Terms(norm_stats, budget, memory_limit * 1e9 if memory_limit else math.inf, seed, device)
    if output is not None:
        write_rows(output, [r for n, r in known.items() if n not in left])
    with out.progress(len(wanted), len(rows)) as step:
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


def _order(name: str) -> tuple[bool, str]:
    return name.startswith("torchvision/"), name


def _command() -> str:
    return " ".join(["fxteleport", *sys.argv[1:]]) + time.strftime("  # %Y-%m-%d")
