"""`fxteleport check`: teleport many networks and say which still compute the same function."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from fxteleport.errors import TeleportError
from fxteleport.tools import models, options
from fxteleport.tools.console import console, count, one_line, progress, write_json
from fxteleport.tools.options import Settings
from fxteleport.tools.run import Run, record, run, verdict

Record = dict[str, Any]


def check(
    model: options.Models,
    input_size: options.InputSize = None,
    pretrained: options.Pretrained = False,
    checkpoint: options.Checkpoint = None,
    redraw: options.Redraw = None,
    mode: options.Modes = "full",
    norm_stats: options.AllNormStats = "fixed",
    landscape: options.Landscape = "intra",
    cob_range: options.CobRange = 0.5,
    exact: options.Exact = False,
    json: options.Json = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
) -> None:
    """Check for many networks that teleportation keeps their function.

    Example: fxteleport check resnet18 vit_tiny_patch16_224 --exact --mode all
    """
    out = console(json)
    base = Settings(landscape=landscape, cob_range=cob_range, exact=exact, seed=seed)
    variants = base.variants(mode, norm_stats)
    wanted = options.request(input_size, pretrained, checkpoint, redraw, seed, device, dtype)
    for spec in model:
        models.check_spec(spec, wanted)
    start, records = time.perf_counter(), list[Record]()
    several = len(variants) > 1
    print_row(out, _HEADER, "bold", several)
    with progress(len(model) * len(variants)) as step:
        for spec in model:
            step(spec)
            for found, why in check_model(spec, wanted, variants):
                records.append(found)
                show(out, found, why, several)
                step(spec, 1)
    failed = sum(not r["passed"] for r in records)
    said = f"{len(records) - failed} of {count(len(records), 'check')} passed in {time.perf_counter() - start:.1f} s"
    out.print(Text(said, style="bold red" if failed else "bold green"))
    write_json(json, records)
    if any("error" in r for r in records):  # what could not be run is wrong input, not a failed check
        raise typer.Exit(2)
    if failed:
        raise typer.Exit(1)


def check_model(spec: str, wanted: models.Request, variants: list[Settings]) -> Iterator[tuple[Record, str]]:
    """One record for each variant, with what to say where it failed."""
    try:
        loaded = models.load(spec, wanted)
    except TeleportError as error:
        yield from (_failed(spec, v, wanted, error) for v in variants)
    else:
        yield from (_checked(loaded, v, wanted) for v in variants)


def _checked(loaded: models.Loaded, settings: Settings, wanted: models.Request) -> tuple[Record, str]:
    try:
        done: Run = run(loaded, settings)
    except TeleportError as error:
        return _failed(loaded.spec, settings, wanted, error)
    found = record(loaded.spec, settings, wanted.device, wanted.dtype, done)
    return found, "" if done.report.passed else verdict(done.report)


def _failed(spec: str, settings: Settings, wanted: models.Request, error: Exception) -> tuple[Record, str]:
    why = one_line(error)
    return record(spec, settings, wanted.device, wanted.dtype, None) | {"error": why}, why


_HEADER = ("", "free", "moved", "diff", "seconds", "mode/norms", "model")


def show(out: Console, found: Record, why: str, several: bool) -> None:
    """Print one record as a row, and why it failed beneath."""
    if "error" in found:
        numbers = ("error", "", "", "", "")
    else:
        numbers = (
            "pass" if found["passed"] else "FAIL",
            str(found["num_free"]),
            f"{found['moved']:.1%}",
            "bitwise" if found["bitwise_equal"] else f"{found['max_rel']:.1e}",
            f"{sum(found['seconds'].values()):.1f}",
        )
    how = f"{found['mode']}/{found['norm_stats']}"
    print_row(out, (*numbers, how, found["model"]), "" if found["passed"] else "red", several)
    if why:
        out.print(Padding(Text(why), (0, 0, 0, 6)))


def print_row(out: Console, cells: tuple[str, ...], style: str, several: bool) -> None:
    """One line of the table, with the variant where there are several; a long model name is cut."""
    status, *numbers, how, model = cells
    line = f"{status:<6}" + "".join(f"{n:>8}" for n in numbers) + (f"  {how:<16}" if several else "") + f"  {model}"
    out.print(Text(line, style=style), no_wrap=True, overflow="ellipsis")
