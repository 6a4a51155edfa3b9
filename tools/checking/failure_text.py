"""The result of a check in words, below its row: a sentence, and the first node that differs with its line of code."""

from __future__ import annotations

import linecache
import os
import textwrap
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fxteleport.tools.checking.records import Outcome


def explain(out: Console, outcome: Outcome) -> None:
    """Print a sentence on a check, and the first node that differs."""
    record, why = outcome
    first = record["first_difference"]
    _indented(out, why.partition("; first at ")[0] if first else why)
    if not first:
        return
    rows = [
        ("node", f"{first['node']} ({first['op']})"),
        ("module", first["path"] or "the model itself"),
        ("source", shortened(first["source"]) or "not known"),
        ("", line_of(first["source"])),
        ("expected", f"{first['expected']:.9g}"),
        ("actual", f"{first['actual']:.9g}"),
        ("rule", " at ".join(filter(None, (first["rule"], shortened(first["rule_source"]))))),
    ]
    for name, value in rows:
        if value:
            _indented(out, value, name)


def _indented(out: Console, text: str, name: str | None = None) -> None:
    """Print a text below its row, wrapped, after a name if there is one."""
    width = 0 if name is None else 10
    for i, line in enumerate(textwrap.wrap(text, out.width - 6 - width)):
        head = "" if i or name is None else name
        out.print(Text(" " * 6).append(f"{head:<{width}}", style="bold").append(line))


def shortened(source: str) -> str:
    """A `file:line` relative to the current folder, or to that of installed packages."""
    if not source:
        return ""
    path, _, line = source.rpartition(":")
    _, installed, inside = path.rpartition(f"site-packages{os.sep}")
    if not installed:
        here = Path.cwd()
        inside = str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
    return f"{inside}:{line}"


def line_of(source: str) -> str:
    """The text of a `file:line`; "" where it cannot be read."""
    path, _, line = source.rpartition(":")
    text = linecache.getline(path, int(line)).strip() if path else ""
    return "".join(c for c in text if c.isprintable())
