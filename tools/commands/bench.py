"""`fxteleport bench`: the costs of all parts, as ratios measured in one run.

| `--measure` | figures | against |
|---|---|---|
| costs | plan, rewrite | `torch.fx.symbolic_trace` + `ShapeProp`; `deepcopy` |
| apply | `apply_` in float32 and bfloat16 | one in-place multiplication: the memory bandwidth |
| run, compiled | emitted networks, forward and backward | the original |
| peers | plan | torch.fx, Brevitas, Torch-Pruning |
| published | plan of language and vision models at the sizes they are published in, without weights | seconds |
| growth | plan of synthetic networks, up to 10,000 layers and 10 million neurons | itself: the exponent |

Every figure is the median of alternating repetitions, with its quartiles.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from fxteleport.passes.errors import InputError
from fxteleport.tools.console import console, write_json
from fxteleport.tools.options import common

GROWTH, PUBLISHED = "growth", "published"
MEASURES = ("costs", "apply", "run", "compiled", "peers", PUBLISHED, GROWTH)


def bench(
    model: Annotated[list[str] | None, typer.Argument(metavar="MODEL...", help="timm names, torchvision/NAME.")] = None,
    measure: Annotated[str, typer.Option("--measure", metavar="|".join(MEASURES), help="What is measured.")] = "costs",
    repeats: Annotated[int, typer.Option("--repeats", min=2, help="Repetitions of each measurement.")] = 7,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Inputs at once. Default: 2.")] = None,
    device: common.Device = "cpu",
    json: common.Json = None,
    seed: common.Seed = 0,
) -> None:
    """Measure what planning, applying, rewriting and running cost, as ratios in one run.

    Example: fxteleport bench resnet18 vit_tiny_patch16_224 --measure peers
    """
    out = console(json)
    common.one_of("--measure", measure, MEASURES)
    if measure == GROWTH and model:
        raise InputError("--measure growth makes its own networks: name none")
    if measure not in (GROWTH, PUBLISHED) and not model:
        raise InputError("name a network to measure, for example: fxteleport bench resnet18")

    with out.starting():
        from fxteleport.tools.benchmarks.growth import FAMILIES, growth
        from fxteleport.tools.benchmarks.measures import OF_A_MODEL, table
        from fxteleport.tools.benchmarks.published import MODELS, published
        from fxteleport.tools.models.load import check_spec

    wanted = dataclasses.replace(common.Source(device=device).request(seed), batch=batch)
    specs = model or list(FAMILIES if measure == GROWTH else MODELS)
    if measure == PUBLISHED:
        for spec in specs:
            common.one_of("MODEL", spec, tuple(MODELS))
    elif measure != GROWTH:
        for spec in specs:
            check_spec(spec, wanted)
    records: list[Any] = []
    with out.progress(len(specs)) as step:
        for spec in specs:
            step(spec)
            if measure == GROWTH:
                records += growth(spec, repeats)
            elif measure == PUBLISHED:
                records.append(published(spec))
            else:
                records.append(OF_A_MODEL[measure](spec, wanted, repeats))
            step(spec, 1)
    if json != "-":
        out.write(table(records) + "\n")
    write_json(json, [dataclasses.asdict(r) for r in records])
