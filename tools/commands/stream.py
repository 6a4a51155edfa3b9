"""`teleport --stream`: a checkpoint scaled from disk to disk, for models larger than memory."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fxteleport.atomic_files import require_writable
from fxteleport.io.safetensors_layout import Layout, read_layout
from fxteleport.io.stream import stream
from fxteleport.passes.errors import ConditionWarning, InputError
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.plan import Plan
from fxteleport.tools.checking.conditions import resting
from fxteleport.tools.console import Output, count, named_rows, write_json
from fxteleport.tools.models import load
from fxteleport.tools.models.request import Request
from fxteleport.tools.options.common import Settings

_FACTS = ("mode", "norm_stats", "norms", "exact", "landscape", "cob_range", "seed")


def streamed(
    out: Output,
    spec: str,
    settings: Settings,
    wanted: Request,
    output: Path | None,
    json: str | None,
    strict: bool = False,
) -> None:
    """Plan a network without its weights, draw a change of basis, and scale its checkpoint with it.

    The change of basis is written beside the output, as OUTPUT.cob.safetensors; `fxteleport.stream` can undo it.

    Raises:
        InputError: no checkpoint or no output is given.
        ConditionError: `strict`, and the plan has conditions.
        CheckpointError: the checkpoint does not fit the network, or something cannot be written.
    """
    disk = planned(spec, settings, wanted, output)
    plan = disk.plan
    cob = settings.sample(plan)
    start = time.perf_counter()
    written = scaled(out, plan, cob, disk.source, disk.target, strict)
    seconds = time.perf_counter() - start
    facts: dict[str, Any] = {
        "model": wanted.named(spec),
        **{name: getattr(settings, name) for name in _FACTS},
        "num_free": plan.num_free,
        "moved": plan.moved,
        **disk.facts(),
        "seconds": plan.seconds | {"stream": seconds},
        "files": [str(f) for f in written],
    }
    show(out, facts, plan)
    write_json(json, facts)


@dataclass(frozen=True)
class OnDisk:
    """A checkpoint, the path of its copy, and the plan of its network, which has no weights."""

    source: Path
    target: Path
    layout: Layout
    parameters: int
    plan: Plan

    def facts(self) -> dict[str, Any]:
        """Its part of a record."""
        return {
            "conditions": [asdict(c) for c in self.plan.conditions],
            "parameters": self.parameters,
            "tensors": sum(1 for _ in self.layout.entries()),
            "bytes": self.layout.size,
        }


def planned(spec: str, settings: Settings, wanted: Request, output: Path | None) -> OnDisk:
    """Plan a network without its weights, for a checkpoint that is copied from disk to disk.

    Raises:
        InputError: no checkpoint or no output is given.
        CheckpointError: the checkpoint cannot be read, or the output not be written.
    """
    if wanted.checkpoint is None or output is None:
        raise InputError("--stream copies a checkpoint: pass --checkpoint FOLDER_OR_FILE and --output FOLDER_OR_FILE")
    require_writable(_basis(output))
    load.check_spec(spec, wanted)
    layout = read_layout(wanted.checkpoint)
    loaded = load.skeleton(spec, wanted)
    return OnDisk(wanted.checkpoint, output, layout, loaded.parameters, settings.plan(loaded))


def _basis(output: Path) -> Path:
    return output.with_name(f"{output.name.removesuffix('.safetensors')}.cob.safetensors")


def scaled(out: Output, plan: Plan, cob: ChangeOfBasis, source: Path, output: Path, strict: bool = False) -> list[Path]:
    """Scale a checkpoint from disk to disk under a progress bar; the files, of which the last is the CoB's."""
    total = sum(e.size for e in read_layout(source).entries())
    with out.progress(max(1, total // 1_000_000)) as step:
        moved = 0

        def report(size: int) -> None:
            nonlocal moved
            before, moved = moved, moved + size
            step("megabytes", moved // 1_000_000 - before // 1_000_000)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConditionWarning)  # the summary says it
            written = stream(plan, cob, source, output, report, strict)
    cob.save(_basis(output))
    return [*written, _basis(output)]


def show(out: Output, facts: dict[str, Any], plan: Plan) -> None:
    """Print the summary."""
    seconds = facts["seconds"]["stream"]
    rows = [
        ("model", f"{facts['model']}, {facts['parameters']:,} parameters, {facts['moved']:.2%} of them moved"),
        ("freedom", count(facts["num_free"], "CoB value")),
        ("checkpoint", f"{count(facts['tensors'], 'tensor')}, {facts['bytes'] / 1e9:.2f} GB in {seconds:.1f} s"),
        *resting(plan.conditions),
        ("compared", "nothing: the weights were never in memory together"),
        *(("written" if i == 0 else "", path) for i, path in enumerate(facts["files"])),
    ]
    out.print(named_rows(rows))
