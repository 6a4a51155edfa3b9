"""`fxteleport equalize`: the change of basis with which a network loses least in an integer format."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, NoReturn

import typer

from fxteleport.passes.errors import CheckpointError, InputError
from fxteleport.plan.choices import MODES
from fxteleport.tools.console import Output as Console
from fxteleport.tools.console import console, write_json
from fxteleport.tools.options import common
from fxteleport.tools.options.dataclass_options import option
from fxteleport.tools.options.equalize import Equalizing

Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="For models larger than memory: equalise the --checkpoint (a folder of safetensors shards, or one file)"
        " from disk to disk, in mode weights, without data. The network is never run, and no norm is folded.",
    ),
]
ModeOrNone = Annotated[
    str | None,
    option("--mode", common.COB, f"{common.MODE} Default: full; weights with --stream.", "|".join(MODES)),
]


def equalize(
    model: common.Model,
    output: common.WeightsOutput = None,
    stream: Stream = False,
    *,
    how: Equalizing,
    source: common.Source,
    mode: ModeOrNone = None,
    norms: common.Norms = "exact",
    json: common.Json = None,
    seed: common.Seed = 0,
) -> None:
    """Choose a change of basis so that the weights lose least in an integer format; the function stays.

    Example: fxteleport equalize mobilenetv2_100 --pretrained --bits 6 --method noise --images pictures --output equal

    With --stream: fxteleport equalize big.py:net --checkpoint shards --stream --output equal
    """
    out = console(json)
    given, mode = mode, mode or ("weights" if stream else "full")
    common.one_of("--mode", mode, MODES)
    common.check_norms(mode, norms)
    if output is not None and not output.parent.is_dir():
        raise CheckpointError(f"cannot write '{output}': its folder does not exist")
    from fxteleport.passes.errors import NothingFree

    if stream:
        _refuse_what_needs_weights(how, source, given)
        with out.starting():
            from fxteleport.tools.commands.equalize_stream import streamed

        settings = common.Settings(mode="weights", norms=norms, seed=seed)
        try:
            streamed(out, model, how, settings, source.request(seed), output, json)
        except NothingFree as error:
            _nothing(out, model, mode, error, json)
        return
    with out.starting():
        from fxteleport.tools.checking.session import compare
        from fxteleport.tools.equalizing.run import run
        from fxteleport.tools.equalizing.summary import show, written
        from fxteleport.tools.models.load import load

    wanted = replace(source.request(seed), images=how.images, batch=how.count if how.images else None)
    with out.progress(4, estimate=False) as step:
        step("building")
        loaded = load(model, wanted)
        step("equalising", 1)
        try:
            done = run(loaded, how, mode, step, norms)
        except NothingFree as error:
            _nothing(out, model, mode, error, json)
        step("verifying", 1)
        report, _ = compare(done.loaded, done.network)
    facts: dict[str, Any] = done.facts(how, mode) | {"passed": report.passed, "bitwise_equal": report.bitwise_equal}
    facts |= {"output_error": done.errors, "files": []}
    if output is not None and report.passed:
        facts["files"] = [str(path) for path in written(output, done, facts)]
    show(out, done, how, report, facts)
    write_json(json, facts)
    if not report.passed:
        raise typer.Exit(1)


def _nothing(out: Console, model: str, mode: str, error: Exception, json: str | None) -> NoReturn:
    """Print that nothing was changed, and why."""
    out.print(f"Nothing was changed: {error}")
    write_json(json, {"model": model, "mode": mode, "num_free": 0, "error": str(error)})
    raise typer.Exit(1) from None


def _refuse_what_needs_weights(how: Equalizing, source: common.Source, mode: str | None) -> None:
    """Raise InputError for options of a network that runs."""
    refused = {"--pretrained": source.pretrained, "--redraw": source.redraw is not None, "--mode full": mode == "full"}
    refused |= {"--device": source.device != "cpu", "--dtype": source.dtype != "float32"}
    refused |= {"--images": how.images is not None, "--method l2": how.method == "l2"}
    for name in (name for name, given in refused.items() if given):
        raise InputError(f"{name} does not go with --stream, which reads a checkpoint once and never runs the network")
