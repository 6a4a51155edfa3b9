"""`fxteleport fit-range`: powers of two with which a network stays inside a floating-point format."""

from __future__ import annotations

from dataclasses import replace

import typer

from fxteleport.passes.errors import CheckpointError
from fxteleport.plan.choices import MODES
from fxteleport.tools.console import console, write_json
from fxteleport.tools.options import common
from fxteleport.tools.options.fit_range import Fitting


def fit_range(
    model: common.Model,
    output: common.WeightsOutput = None,
    *,
    how: Fitting,
    source: common.Source,
    mode: common.Mode = "full",
    norms: common.Norms = "exact",
    json: common.Json = None,
    seed: common.Seed = 0,
) -> None:
    """Choose powers of two so that no value and no weight overflows in a number format; the function stays.

    Example: fxteleport fit-range convnext_tiny --pretrained --images pictures --mode weights --output fitted
    """
    out = console(json)
    common.one_of("--mode", mode, MODES)
    common.check_norms(mode, norms)
    if output is not None and not output.parent.is_dir():
        raise CheckpointError(f"cannot write '{output}': its folder does not exist")
    with out.starting():
        from fxteleport.passes.errors import NothingFree
        from fxteleport.plan.plan import plan
        from fxteleport.ranges.fit_range import fit_range as fitted_cob
        from fxteleport.ranges.fit_range import require_format
        from fxteleport.ranges.range_report import range_report
        from fxteleport.tools.checking.session import compare
        from fxteleport.tools.equalizing.fitted import Fitted, show, written
        from fxteleport.tools.models.load import load

    require_format(how.dtype(), how.headroom)
    wanted = replace(source.request(seed), images=how.images, batch=how.count if how.images else None)
    with out.progress(4, estimate=False) as step:
        step("building")
        loaded = load(model, wanted)
        data = [loaded.kwargs or loaded.args] if how.images is None else list(loaded.args[0].split(8))
        step("planning", 1)
        planned = plan(loaded.model, *loaded.args, **loaded.kwargs, mode=mode, norms=norms)
        try:
            cob = fitted_cob(planned, data, how.dtype(), how.headroom, step)
        except NothingFree as error:
            out.print(f"Nothing was changed: {error}")
            write_json(json, {"model": model, "mode": mode, "num_free": planned.num_free, "error": str(error)})
            raise typer.Exit(1) from None
        step("measuring", 1)
        done = Fitted(loaded, planned, cob, planned.rewrite(cob), range_report(planned, cob, data, how.dtype()))
        step("verifying", 1)
        report, _ = compare(loaded, done.network)
    facts = done.facts(how, mode) | {"passed": report.passed, "bitwise_equal": report.bitwise_equal, "files": []}
    if output is not None and report.passed:
        facts["files"] = [str(path) for path in written(output, done, facts)]
    show(out, done, how, report, facts)
    write_json(json, facts)
    if not report.passed:
        raise typer.Exit(1)
