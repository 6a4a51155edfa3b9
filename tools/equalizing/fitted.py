"""What `fit-range` prints and writes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text
from torch import fx

from fxteleport.atomic_files import write_text
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.plan import Plan
from fxteleport.ranges.range_report import Range, RangeRow
from fxteleport.tensor_files import write_tensors
from fxteleport.tools.checking.records import verdict
from fxteleport.tools.console import Output, count
from fxteleport.tools.models.request import Loaded
from fxteleport.tools.options.fit_range import Fitting
from fxteleport.verify import EquivalenceReport

_SHOWN = 12


@dataclass(frozen=True)
class Fitted:
    """A network whose ranges were fitted.

    Attributes:
        loaded, plan: the network, and its plan.
        cob, network: the change of basis, and the network after it.
        rows: the ranges of its values and weights.
    """

    loaded: Loaded
    plan: Plan
    cob: ChangeOfBasis
    network: fx.GraphModule
    rows: list[RangeRow]

    def facts(self, how: Fitting, mode: str) -> dict[str, Any]:
        """Its facts, for JSON."""
        return {
            "model": self.loaded.spec,
            "mode": mode,
            "norms": self.plan.norms,
            "to": how.to,
            "headroom": how.headroom,
            "num_free": self.plan.num_free,
            "cob": {"smallest": float(self.cob.values.min()), "largest": float(self.cob.values.max())},
            "ranges": [asdict(row) for row in self.rows],
            "conditions": [asdict(c) for c in self.plan.conditions],
        }


def written(output: Path, done: Fitted, facts: dict[str, Any]) -> list[Path]:
    """Write the weights, in their own format, the change of basis and the facts."""
    weights, cob, about = (output.with_name(output.name + end) for end in (".safetensors", ".cob.safetensors", ".json"))
    write_tensors(weights, {n: t.detach().cpu().contiguous() for n, t in done.network.state_dict().items()}, {})
    done.cob.save(cob)
    write_text(about, json.dumps(facts, indent=2) + "\n")
    return [weights, cob, about]


def show(out: Output, done: Fitted, how: Fitting, report: EquivalenceReport, facts: dict[str, Any]) -> None:
    """Print the summary, and the values and weights that did not fit, or changed most."""
    rows = [
        ("model", f"{done.loaded.spec}, {count(done.loaded.parameters, 'parameter')}"),
        ("format", f"{how.to}, values with headroom {how.headroom:g}"),
        ("freedom", f"{count(done.plan.num_free, 'CoB value')}, {facts['cob']['smallest']:.4g} to"
                    f" {facts['cob']['largest']:.4g} now"),
        ("same function" if report.passed else "FAILED", verdict(report)),
    ]  # fmt: skip
    if bool((done.cob.values == 1).all()):
        rows.append(("changed", "nothing: every value and weight fits as it is"))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, text in rows:
        table.add_row(Text(name), Text(text))
    out.print(table)
    out.print(_ranges(done.rows))
    for path in facts["files"]:
        out.print(Text(f"written: {path}"), soft_wrap=True)


def _ranges(rows: list[RangeRow]) -> Table:
    """The table of ranges, the worst first."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("value or weight", overflow="fold")
    for heading in ("largest", "fitted", "overflow", "fitted", "subnormal", "fitted"):
        table.add_column(heading, justify="right")
    for row in sorted(rows, key=lambda r: (-r.before.overflow, -r.before.subnormal, -r.before.largest))[:_SHOWN]:
        pairs = ((f"{x.largest:.4g}", str(x.overflow), str(x.subnormal)) for x in (row.before, row.after))
        table.add_row(Text(row.name), *(cell for pair in zip(*pairs, strict=True) for cell in pair))
    if len(rows) > _SHOWN:
        rest = f"all {len(rows)}, in sum"
        sums = [Range(), Range()]
        for row in rows:
            sums = [sums[0] | row.before, sums[1] | row.after]
        pairs = ((f"{x.largest:.4g}", str(x.overflow), str(x.subnormal)) for x in sums)
        table.add_row(rest, *(cell for pair in zip(*pairs, strict=True) for cell in pair))
    return table
