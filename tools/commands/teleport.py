"""`fxteleport teleport`: another place in weight space, the same function, and the proof of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fxteleport.atomic_files import require_writable
from fxteleport.passes.errors import InputError
from fxteleport.plan.choices import MODES
from fxteleport.tools.console import console, write_json
from fxteleport.tools.options import common
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


def teleport(
    model: common.Model,
    output: Output = None,
    stream: Stream = False,
    *,
    source: common.Source,
    mode: ModeOrNone = None,
    norm_stats: common.NormStats = "fixed",
    norms: common.Norms = "exact",
    law: common.Law,
    strict: Strict = False,
    json: common.Json = None,
) -> None:
    """Teleport a network, check that it still computes the same function, and write it.

    Example: fxteleport teleport resnet18 --exact --output moved

    With --stream: fxteleport teleport big.py:net --checkpoint shards --stream --output moved
    """
    out = console(json)
    settings = law.settings(mode or ("weights" if stream else "full"), norm_stats, norms)
    if stream:
        of_the_run = {"--pretrained": source.pretrained, "--redraw": source.redraw is not None}
        of_the_run |= {"--mode full": mode == "full", "--device": source.device != "cpu"}
        of_the_run |= {"--dtype": source.dtype != "float32"}
        for name in (name for name, given in of_the_run.items() if given):
            raise InputError(f"{name} does not go with --stream, which scales a checkpoint as it is")
        with out.starting():
            from fxteleport.tools.commands.stream import streamed

        streamed(out, model, settings, source.request(law.seed), output, json, strict)
        return
    with out.starting():
        from fxteleport.io import checkpoint as files
        from fxteleport.tools.checking.records import record
        from fxteleport.tools.checking.run_summary import activations, show
        from fxteleport.tools.checking.session import run
        from fxteleport.tools.models.load import load

    wanted = source.request(law.seed)
    for path in [] if output is None else files.paths(output):
        require_writable(path)
    with out.progress(4, estimate=False) as step:
        step("building")
        loaded = load(model, wanted)
        done = run(loaded, settings, lambda what: step(what, 1), strict=strict)
    written: list[Path] = []
    if output is not None and done.report.passed:
        written = files.save(output, done.network, loaded.spec, wanted.input_size)
    show(out, done, written)
    if output is not None and not written:
        out.print("Nothing was written, since the check failed.")
    more = {
        "weights": loaded.weights,
        "compared": done.report.nodes,
        "activations": activations(done),
        "files": [str(f) for f in written],
    }
    write_json(json, record(loaded.spec, settings, wanted, done) | more)
    if not done.report.passed:
        raise typer.Exit(1)
