"""The measures of `bench` by name, and their records as a table."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fxteleport.tools.benchmarks.bandwidth import bandwidth
from fxteleport.tools.benchmarks.costs import cost
from fxteleport.tools.benchmarks.peers import peers
from fxteleport.tools.benchmarks.runtime import running
from fxteleport.tools.models.request import Request

OF_A_MODEL: dict[str, Callable[[str, Request, int], Any]] = {
    "costs": cost,
    "apply": bandwidth,
    "run": running,
    "compiled": functools.partial(running, compiled=True),
    "peers": peers,
}


def table(records: Sequence[Any]) -> str:
    """Records of one kind as a Markdown table."""
    names = [f.name for f in dataclasses.fields(records[0])]
    rows: Iterable[list[Any]] = ([getattr(r, name) for name in names] for r in records)
    lines = [names, ["---"] * len(names), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
