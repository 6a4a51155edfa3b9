"""What `equalize` prints and writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from fxteleport.atomic_files import write_text
from fxteleport.tensor_files import write_tensors
from fxteleport.tools.checking.records import verdict
from fxteleport.tools.console import Output, count
from fxteleport.tools.equalizing.run import Done
from fxteleport.tools.options.equalize import Equalizing
from fxteleport.verify import EquivalenceReport


def _taken(done: Done, how: Equalizing) -> str:
    """How much of what was found is in the change of basis, where it is not all."""
    if done.found.share == 0.5:
        return "; half of it is taken (in logarithms), which errs less than the whole"
    if done.found.share == 1:
        return ""
    if how.images is None:
        return "; nothing is taken: the network as it is errs less"
    return f"; nothing is taken: no squared error is {how.least_gain:g} times smaller (--least-gain)"


def written(output: Path, done: Done, facts: dict[str, Any]) -> list[Path]:
    """Write the weights, the change of basis and the facts."""
    weights, cob, about = (output.with_name(output.name + end) for end in (".safetensors", ".cob.safetensors", ".json"))
    write_tensors(weights, {n: t.detach().cpu().contiguous() for n, t in done.network.state_dict().items()}, {})
    done.found.cob.save(cob)
    write_text(about, json.dumps(facts, indent=2) + "\n")
    return [weights, cob, about]


def show(out: Output, done: Done, how: Equalizing, report: EquivalenceReport, facts: dict[str, Any]) -> None:
    """Print the summary, with what changed as a table."""
    kept = done.folded.kept
    rows = [
        ("model", f"{done.loaded.spec}, {count(done.loaded.parameters, 'parameter')}"),
        ("norms", f"{len(done.folded.folded)} folded, {len(kept)} kept" if how.fold else "not folded"),
        *((("", f"{name}: {why}")) for name, why in list(kept.items())[:3]),
        ("freedom", f"{count(done.plan.num_free, 'CoB value')}, {facts['cob']['smallest']:.4g} to"
                    f" {facts['cob']['largest']:.4g} now"),
        ("format", f"{how.bits} bits, a scale for each {'channel' if how.per_channel else 'tensor'}"
                   + ("" if how.activation_bits is None else f"; inputs {how.activation_bits} bits")),
        ("method", f"{how.method}, in {facts['seconds']:.1f} s{_taken(done, how)}"),
        ("same function" if report.passed else "FAILED", verdict(report)),
    ]  # fmt: skip
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, text in rows:
        table.add_row(Text(name), Text(text))
    out.print(table)
    change = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "before", "after"):
        change.add_column(heading, justify="left" if not heading else "right")
    for name, key in (
        ("objective of the method", "objective"),
        ("noise to signal, modelled", "noise"),
        ("error of the outputs, measured", "output_error"),
    ):
        change.add_row(name, f"{facts[key]['before']:.4g}", f"{facts[key]['after']:.4g}")
    out.print(change)
    for path in facts["files"]:
        out.print(Text(f"written: {path}"), soft_wrap=True)
