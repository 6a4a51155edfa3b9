"""`fxteleport teleport`: another place in weight space, the same function, and the proof of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fxteleport.io import checkpoint as files
from fxteleport.passes.errors import InputError
from fxteleport.passes.rewrite.teleported_modules import Rescale, TeleportedActivation
from fxteleport.plan.plan import MODES
from fxteleport.tools.checking.records import record, verdict
from fxteleport.tools.checking.session import Run, run
from fxteleport.tools.commands.stream import streamed
from fxteleport.tools.console import console, count, progress, write_json
from fxteleport.tools.inspection.conditions import resting
from fxteleport.tools.models import load
from fxteleport.tools.options import common
from fxteleport.tools.options.common import Settings
from fxteleport.tools.options.dataclass_options import option

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="Write PATH.safetensors, PATH.cob.safetensors and PATH.json; with --stream the folder or the file PATH.",
    ),
]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="For models larger than memory: scale the --checkpoint (a folder of safetensors shards, or one file) from"
        " disk to disk, in mode weights. The model's weights are never built, and its function is not compared.",
    ),
]
ModeOrNone = Annotated[
    str | None,
    option("--mode", common.COB, f"{common.MODE} Default: full; weights with --stream.", "|".join(MODES)),
]
Strict = Annotated[
    bool,
    option("--strict", common.COB, "Refuse a plan that rests on conditions: a size that decided a branch, a mode."),
]
_SHOWN = 5


def teleport(
    model: common.Model,
    output: Output = None,
    stream: Stream = False,
    *,
    source: common.Source,
    mode: ModeOrNone = None,
    norm_stats: common.NormStats = "fixed",
    law: common.Law,
    strict: Strict = False,
    json: common.Json = None,
) -> None:
    """Teleport a network, check that it still computes the same function, and write it.

    Example: fxteleport teleport resnet18 --exact --output moved

    With --stream: fxteleport teleport big.py:net --checkpoint shards --stream --output moved
    """
    out = console(json)
    settings = law.settings(mode or ("weights" if stream else "full"), norm_stats)
    if stream:
        of_the_run = {"--pretrained": source.pretrained, "--redraw": source.redraw is not None}
        of_the_run |= {"--mode full": mode == "full", "--device": source.device != "cpu"}
        of_the_run |= {"--dtype": source.dtype != "float32"}
        for name in (name for name, given in of_the_run.items() if given):
            raise InputError(f"{name} does not go with --stream, which scales a checkpoint as it is")
        streamed(out, model, settings, source.request(law.seed), output, json, strict)
        return
    wanted = source.request(law.seed)
    if output is not None:
        files.paths(output)
    with progress(total=4) as step:
        step("building")
        loaded = load.load(model, wanted)
        done = run(loaded, settings, lambda what: step(what, 1), strict=strict)
    written: list[Path] = []
    if output is not None and done.report.passed:
        written = files.save(output, done.network, model, wanted.input_size)
    show(out, done, written)
    if output is not None and not written:
        out.print("Nothing was written, since the check failed.")
    more: dict[str, Any] = {
        "weights": loaded.weights,
        "compared": done.report.nodes,
        "activations": activations(done),
        "files": [str(f) for f in written],
    }
    write_json(json, record(model, settings, wanted, done) | more)
    if not done.report.passed:
        raise typer.Exit(1)


def show(out: Console, done: Run, written: list[Path]) -> None:
    """Print the summary."""
    found, report = done.plan, done.report
    free = [g for g in found.groups if g.kind != "pinned"]
    where = next(done.loaded.model.parameters()).device if done.loaded.parameters else "cpu"
    seconds = done.seconds
    rows: list[tuple[str, str]] = [
        ("model", f"{done.loaded.spec} on {where}, {_dtype(done)}"),
        ("weights", done.loaded.weights),
        ("parameters", f"{done.loaded.parameters:,}, {found.moved:.2%} of them moved"),
        ("graph", count(len(found.captured.graph.nodes), "node")),
        ("freedom", f"{count(found.num_free, 'CoB value')} in {count(len(free), 'neuron group')}"),
        ("law", _law(done.settings)),
        ("operations", _operations(activations(done))),
        *resting(found.conditions),
        ("opaque", count(len(found.opaque), "node") if found.opaque else "none: a rule knows every node"),
        *_first((f"{o.path or o.node}: {o.why}" for o in found.opaque), len(found.opaque)),
        ("seconds", ", ".join(f"{name} {seconds[name]:.1f}" for name in _PASSES if name in seconds)),
        *(("written" if i == 0 else "", str(path)) for i, path in enumerate(written)),
    ]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    mark = Text("same function" if report.passed else "FAILED", style="bold green" if report.passed else "bold red")
    table.add_row(mark, Text(verdict(report)))
    out.print(table)


def activations(done: Run) -> dict[str, int]:
    """How many operations the network has that the original has not."""
    modules = list(done.network.modules())
    return {kind.__name__: sum(isinstance(m, kind) for m in modules) for kind in (TeleportedActivation, Rescale)}


_PASSES = ("capture", "constrain", "solve", "rewrite", "verify")


def _law(settings: Settings) -> str:
    law = f"{settings.landscape}, range {settings.cob_range:g}, seed {settings.seed}"
    plan = f"mode {settings.mode}, norm statistics {settings.norm_stats}"
    note = " (exact in eval mode)" if settings.norm_stats == "rescaled" else ""
    return f"{law}{', powers of two' if settings.exact else ''}; {plan}{note}"


def _operations(found: dict[str, int]) -> str:
    names = {"TeleportedActivation": "teleported activation", "Rescale": "rescaling"}
    said = [count(n, names[kind]) for kind, n in found.items() if n]
    return f"new: {', '.join(said)}" if said else "those of the original"


def _first(reasons: Iterable[str], total: int) -> list[tuple[str, str]]:
    shown = [("", reason) for reason, _ in zip(reasons, range(_SHOWN), strict=False)]
    return shown + ([("", f"and {total - _SHOWN} more (see --json)")] if total > _SHOWN else [])


def _dtype(done: Run) -> str:
    found = next((p.dtype for p in done.loaded.model.parameters() if p.is_floating_point()), "no parameters")
    return str(found).removeprefix("torch.")
