"""`fxteleport inspect`: which neurons share a change of basis, what pins the others, and what teleporting changes."""

from __future__ import annotations

import typer
from rich.text import Text

from fxteleport.plan import plan
from fxteleport.tools import inspect_options as own
from fxteleport.tools import models, options
from fxteleport.tools.console import console, progress, write_json
from fxteleport.tools.described import checked, described
from fxteleport.tools.options import Settings
from fxteleport.tools.outputs import Outputs
from fxteleport.tools.reading import Reading
from fxteleport.tools.records import verdict
from fxteleport.tools.rows import module_rows
from fxteleport.tools.run import Run, run
from fxteleport.tools.views import View, emit


def inspect(
    model: options.Model,
    group: own.GroupId = None,
    node: own.NodeName = None,
    pinned: own.Pinned = False,
    diff: own.Diff = False,
    every: own.Every = False,
    depth: own.Depth = None,
    limit: own.Limit = 20,
    html: own.Html = None,
    explorer: own.Explorer = None,
    explore: own.Explore = False,
    plot: own.Plot = None,
    output: own.PlotOutput = None,
    image: own.Image = None,
    layer: own.Layers = None,
    input_size: options.InputSize = None,
    pretrained: options.Pretrained = False,
    checkpoint: options.Checkpoint = None,
    redraw: options.Redraw = None,
    mode: options.Mode = "full",
    norm_stats: options.NormStats = "fixed",
    landscape: options.Landscape = "intra",
    cob_range: options.CobRange = 0.5,
    exact: options.Exact = False,
    json: options.Json = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
) -> None:
    """Look inside: the neuron groups of a network, what joins or pins them, and what teleportation changes.

    Example: fxteleport inspect resnet18 --group 9
    """
    out = console(json)
    settings = Settings(mode, norm_stats, landscape, cob_range, exact, seed)
    outputs = Outputs(html, explorer, explore, plot, output, image, tuple(layer or ()))
    fresh = redraw if diff or outputs.any or redraw is not None else False
    wanted = options.request(input_size, pretrained, checkpoint, fresh, seed, device, dtype)
    done: Run | None = None
    with progress(2) as step:
        step("building")
        loaded = models.load(model, wanted)
        step("teleporting" if outputs.any else "planning", 1)
        if outputs.any:
            done = run(loaded, settings)
            found = done.plan
        else:
            found = plan(loaded.model, *loaded.args, **loaded.kwargs, mode=mode, norm_stats=norm_stats)
        reading = Reading(found)
        row = module_rows(reading)
    data = {} if json is None else described(loaded, reading, row)
    views = View(reading, loaded, row, limit, data)
    if group is not None:
        emit(out, views.group(group))
    if node is not None:
        emit(out, views.node(node))
    if pinned:
        emit(out, views.pinned())
    if diff:
        emit(out, views.diff(settings, done))
    if not (group or node or pinned or diff or outputs.any):
        emit(out, views.tree(every, depth))
    if done is not None:
        data["check"] = checked(done.report)
        emit(out, iter([Text(f"{'same function' if done.report.passed else 'FAILED'}: {verdict(done.report)}")]))
        for path in outputs.make(done):
            out.print(Text(f"written: {path}"), soft_wrap=True)
    write_json(json, data)
    if done is not None and not done.report.passed:
        raise typer.Exit(1)
    if done is not None and explore:
        outputs.open(done)
