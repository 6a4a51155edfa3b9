"""The tables of a coverage survey: totals, by library, by family; and the document with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from fxteleport.tools.survey.other_inputs import ENDS, counts, entries
from fxteleport.tools.survey.row import Row


@dataclass(frozen=True)
class Column:
    """A column of the tables: its name, a short one for the terminal, and its cell for some rows."""

    name: str
    short: str
    of: Callable[[Sequence[Row]], str]


def _share(flag: Callable[[Row], bool | None]) -> Callable[[Sequence[Row]], str]:
    return lambda rows: str(sum(bool(flag(r)) for r in rows))


def _median(value: Callable[[Row], float | None], form: str) -> Callable[[Sequence[Row]], str]:
    def text(rows: Sequence[Row]) -> str:
        known = [v for v in map(value, rows) if v is not None]
        return format(float(np.median(known)), form) if known else "-"

    return text


COLUMNS = (
    Column("models", "n", lambda rows: str(len(rows))),
    Column("captured", "graph", _share(lambda r: r.captured)),
    Column("planned", "plan", _share(lambda r: r.planned)),
    Column("exact", "exact", _share(lambda r: r.exact and r.dtype == "float32")),
    Column("exact bf16", "bf16", _share(lambda r: r.exact and r.dtype == "bfloat16")),
    Column("not run", "unrun", _share(lambda r: r.planned and r.exact is None)),
    Column("failed", "fail", _share(lambda r: r.exact is False or not r.planned)),
    Column("free", "free", _median(lambda r: r.free, ",.0f")),
    Column("moved", "moved", _median(lambda r: r.moved, ".1%")),
    Column("weights", "wts", _median(lambda r: r.moved_weights, ".1%")),
    Column("opaque", "opq", lambda rows: str(sum(r.opaque or 0 for r in rows))),
    Column("plan s", "s", _median(lambda r: r.plan_s, ".2f")),
)


def by_library(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each library, and of all."""
    groups = _grouped(rows, lambda r: r.library)
    return {**groups, "all": list(rows)} if len(groups) > 1 else groups


def by_family(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each family, by name."""
    prefix = {"timm": "", "torchvision": "tv/"}
    return dict(sorted(_grouped(rows, lambda r: prefix[r.library] + r.family).items()))


def _grouped(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def summary(rows: Sequence[Row]) -> Table:
    """The table for the terminal: a line for each family and library."""
    table = Table("", *(c.short for c in COLUMNS), box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for name, members in {**by_family(rows), **by_library(rows)}.items():
        table.add_row(name, *(c.of(members) for c in COLUMNS))
    return table


def markdown(groups: dict[str, list[Row]]) -> str:
    """The same table in Markdown."""
    names = ["", *(c.name for c in COLUMNS)]
    lines = ["| " + " | ".join(names) + " |", "|---" + "|--:" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join([name, *(c.of(rows) for c in COLUMNS)]) + " |" for name, rows in groups.items()]
    return "\n".join(lines)


def growth(rows: Sequence[Row]) -> float:
    """The exponent of plan time against graph nodes, by least squares on logarithms."""
    points = [(r.nodes, r.plan_s) for r in rows if r.nodes and r.plan_s]
    if len({n for n, _ in points}) < 2:
        return float("nan")
    nodes, seconds = np.log(np.array(points, dtype=float)).T
    return float(np.polyfit(nodes, seconds, 1)[0])


def document(rows: Sequence[Row], command: str) -> str:
    """docs/coverage.md: totals, the plan's cost, what is not exact and why, and the table by family."""
    plans = np.array([r.plan_s for r in rows if r.plan_s is not None] or [np.nan])
    peak = max((r.plan_mb for r in rows if r.plan_mb is not None), default=float("nan"))
    slowest = max((r for r in rows if r.plan_s is not None), key=lambda r: r.plan_s or 0.0, default=None)
    parts = [_HEAD, f"```bash\n{command}\n```", markdown(by_library(rows)), _LEGEND]
    parts.append(
        "## Planning\n\n"
        f"Seconds of a plan: median {np.median(plans):.2f}, 95th percentile {np.percentile(plans, 95):.2f}, worst"
        f" {plans.max():.2f} ({slowest.model if slowest else '-'}). It grows with the nodes of the graph to the power"
        f" {growth(rows):.2f}. Largest peak memory: {peak:,.0f} MB."
    )
    parts.append("## Another input on the same graph\n\n" + _others(rows))
    for title, part in (
        ("Not exact, or not run", [(r.model, r.error or "planned only") for r in rows if not r.exact]),
        ("Opaque nodes", [(r.model, f"{r.opaque}: {r.why}") for r in rows if r.opaque]),
        ("Nothing is free in weights mode", [(r.model, r.pinned or "") for r in rows if r.free_weights == 0]),
    ):
        lines = [f"| {name} | {_cell(why)} |" for name, why in part] or ["| none | |"]
        parts.append(f"## {title}\n\n" + "\n".join(["| model | why |", "|---|---|", *lines]))
    parts.append("## By family\n\n" + markdown(by_family(rows)))
    return "\n\n".join(parts) + "\n"


def _others(rows: Sequence[Row]) -> str:
    """The counts of outcomes on other inputs, and the number of networks with any."""
    known = [r for r in rows if r.other]
    resized = [r for r in known if any(e.size != r.size for e in entries(str(r.other)))]
    ways = counts(str(r.other) for r in known)
    lines = [f"| {way} | {' | '.join(f'{ends[end]:,}' for end in ENDS)} |" for way, ends in ways.items()]
    head = [f"| run again on other inputs | {' | '.join(ENDS)} |", "|---|---:|---:|---:|"]
    return (
        f"{len(known)} networks were run again on a batch of two and on other sizes of each axis that they take, for"
        f" {len(resized)} of them images of another size. A checkpoint is the original class with teleported weights."
        + "\n\n"
        + "\n".join([*head, *lines])
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


_HEAD = """# Coverage

Every network of timm and torchvision: captured, planned, teleported with a change of basis of powers of two on
re-drawn parameters, and compared with the original at every node, bit by bit. One row a model is in the CSV file of
the same name."""

_LEGEND = """| column | what |
|---|---|
| captured | as a graph, not as one opaque module |
| planned | in `full` and in `weights` mode |
| exact | bitwise equal in both modes at every node, in float32, and not vacuous |
| exact bf16 | the same in bfloat16: what does not fit the memory in float32 |
| not run | planned only: it fits the memory in no number format |
| free, moved | median number of free CoB values and share of parameters that move (`full` mode) |
| weights | median share of parameters that move in `weights` mode |
| opaque | nodes that no rule knows, in all |
| plan s | median seconds of a plan |"""
