"""`fxteleport inspect`: which neurons share a change of basis, what pins the others, and what teleporting changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import typer
from rich.console import Group
from rich.text import Text

from fxteleport.tools.console import console, write_json
from fxteleport.tools.options import common
from fxteleport.tools.options import inspect as own
from fxteleport.tools.options.outputs import Outputs


def inspect(
    model: common.Model,
    *,
    look: own.Look,
    outputs: Outputs,
    source: common.Source,
    settings: common.Settings,
    json: common.Json = None,
) -> None:
    """Look inside: the neuron groups of a network, what joins or pins them, and what teleportation changes.

    Example: fxteleport inspect resnet18 --group 9
    """
    out = console(json)
    with out.starting():
        from fxteleport.tools.checking.records import verdict
        from fxteleport.tools.checking.session import Run, run
        from fxteleport.tools.export import outputs as files
        from fxteleport.tools.inspection.as_json import checked, described
        from fxteleport.tools.inspection.name_lookup import require_names
        from fxteleport.tools.inspection.plan_view import Reading
        from fxteleport.tools.inspection.views import View
        from fxteleport.tools.models import load

    if source.redraw is None and not (look.diff or outputs.any):  # a plan reads no weights
        source = replace(source, redraw=False)
    wanted = source.request(settings.seed)
    done: Run | None = None
    with out.progress(3, estimate=False) as step:
        step("building")
        loaded = load.load(model, wanted)
        step("planning", 1)
        plan = settings.plan(loaded)
        reading = Reading(plan)
        require_names(reading, look)
        files.require_pictures(outputs, plan, loaded)
        if outputs.any:
            step("teleporting", 1)
            done = run(loaded, settings, plan=plan, keep=files.kept(outputs, plan, loaded))
    data: dict[str, Any] = {}
    views = View(reading, loaded, look.limit, data)
    if json is not None:
        data |= described(loaded, reading, views.row)
    if look.group is not None:
        out.print(Group(*views.group(look.group)))
    if look.node is not None:
        out.print(Group(*views.node(look.node)))
    if look.pinned:
        out.print(Group(*views.pinned()))
    if look.diff:
        out.print(Group(*views.diff(settings, done)))
    if not (look.any or outputs.any):
        out.print(Group(*views.tree(look.every, look.depth)))
    if done is not None:
        data["check"] = checked(done.report)
        out.print(Text(f"{'same function' if done.report.passed else 'FAILED'}: {verdict(done.report)}"))
        for path in files.write(outputs, done):
            out.print(Text(f"written: {path}"), soft_wrap=True)
    write_json(json, data)
    if done is not None and not done.report.passed:
        raise typer.Exit(1)
    if done is not None:
        files.show(outputs, done)
