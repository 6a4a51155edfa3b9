"""`fxteleport equalize`: the change of basis with which a network loses least in an integer format."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import typer

from fxteleport.passes.errors import CheckpointError
from fxteleport.plan.choices import MODES
from fxteleport.tools.console import console, write_json
from fxteleport.tools.options import common
from fxteleport.tools.options.equalize import Equalizing


def equalize(
    model: common.Model,
    output: common.WeightsOutput = None,
    *,
    how: Equalizing,
    source: common.Source,
    mode: common.Mode = "full",
    norms: common.Norms = "exact",
    json: common.Json = None,
    seed: common.Seed = 0,
) -> None:
    """Choose a change of basis so that the weights lose least in an integer format; the function stays.

    Example: fxteleport equalize mobilenetv2_100 --pretrained --bits 6 --method noise --images pictures --output equal
    """
    out = console(json)
    common.one_of("--mode", mode, MODES)
    common.check_norms(mode, norms)
    if output is not None and not output.parent.is_dir():
        raise CheckpointError(f"cannot write '{output}': its folder does not exist")
    from fxteleport.passes.errors import NothingFree
    from fxteleport.tools.checking.session import compare
    from fxteleport.tools.equalizing.run import measured, run
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
            out.print(f"Nothing was changed: {error}")
            write_json(json, {"model": model, "mode": mode, "num_free": 0, "error": str(error)})
            raise typer.Exit(1) from None
        step("verifying", 1)
        report, _ = compare(done.loaded, done.network)
        step("measuring", 1)
        errors = measured(done, how)
    facts: dict[str, Any] = done.facts(how, mode) | {"passed": report.passed, "bitwise_equal": report.bitwise_equal}
    facts |= {"output_error": errors, "files": []}
    if output is not None and report.passed:
        facts["files"] = [str(path) for path in written(output, done, facts)]
    show(out, done, how, report, facts)
    write_json(json, facts)
    if not report.passed:
        raise typer.Exit(1)
