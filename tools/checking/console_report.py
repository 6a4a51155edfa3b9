"""Report: what `check` prints: a table as checks finish, what is known of each failure, and a summary."""

from __future__ import annotations

import linecache
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fxteleport.tools.checking.full_matrix import FORMATS, LEGEND
from fxteleport.tools.checking.records import Outcome, Record
from fxteleport.tools.console import count

_HEADER = ("", "free", "moved", "diff", "seconds")
_NAMED = 5


class Table:
    """A row for each check; where a model has several, its name stands above them.

    With `wordy` a check that passed says what it found, as one that failed does.
    """

    def __init__(self, out: Console, several: bool, wordy: bool) -> None:
        self.out, self.several, self.wordy, self.model = out, several, wordy, ""
        self._row(_HEADER, ("mode/norms", "seed") if several else (), "" if several else "model", "bold")

    def add(self, outcome: Outcome) -> None:
        """Print a check."""
        record = outcome[0]
        if self.several and record["model"] != self.model:
            self.model = record["model"]
            self.out.print(Text(self.model, style="bold"))
        how = (f"{record['mode']}/{record['norm_stats']}", str(record["seed"])) if self.several else ()
        style = "" if record["passed"] else "red"
        self._row(_numbers(record), how, "" if self.several else record["model"], style)
        if self.wordy or not record["passed"]:
            explain(self.out, outcome)

    def close(self) -> None:
        """Nothing is left to print."""

    def _row(self, cells: Sequence[str], how: Sequence[str], model: str, style: str) -> None:
        status, *numbers = cells
        line = f"{status:<6}" + "".join(f"{n:>9}" for n in numbers)
        line += "".join(f"  {h:<18}" for h in how) + (f"  {model}" if model else "")
        self.out.print(Text(line.rstrip(), style=style), no_wrap=True, overflow="ellipsis")


class Matrix:
    """A row for each plan and law of a model, with a cell for each number format in eval and in train mode."""

    def __init__(self, out: Console) -> None:
        self.out, self.held, self.model = out, list[Outcome](), ""
        self.failures: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        """Take a check; print the row before it when another begins."""
        if self.held and _row_of(self.held[0][0]) != _row_of(outcome[0]):
            self._flush()
        self.held.append(outcome)
        if not outcome[0]["passed"]:
            self.failures.append(outcome)

    def close(self) -> None:
        """Print the last row, what the columns mean, and the first failure at each place."""
        self._flush()
        for line in textwrap.wrap(LEGEND, self.out.width):
            self.out.print(Text(line))
        places: dict[object, Outcome] = {}
        for outcome in self.failures:
            places.setdefault(_place(outcome), outcome)
        for outcome in list(places.values())[:_NAMED]:
            record = outcome[0]
            mode = "train" if record["training"] else "eval"
            how = f"{record['mode']}/{record['norm_stats']} {record['landscape']}{' exact' * record['exact']}"
            said = f"{record['model']}: {how}, {record['dtype']}, batch {record['batch']}, {mode} mode"
            self.out.print(Text(said, style="red"))
            explain(self.out, outcome)
        if len(places) > _NAMED:
            self.out.print(Text(f"and at {len(places) - _NAMED} more places (see --json)"))

    def _flush(self) -> None:
        if not self.held:
            return
        records = [r for r, _ in self.held]
        if records[0]["model"] != self.model:
            self.model = records[0]["model"]
            titles = "".join(f"{f.title:>5}" for f in FORMATS)
            self.out.print(Text(f"{self.model}", style="bold"))
            self.out.print(Text(f"{'':<28}{'eval':>{5 * len(FORMATS)}}   {'train':>{5 * len(FORMATS)}}", style="bold"))
            self.out.print(Text(f"{'mode/norms':<18}{'law':<10}{titles}   {titles}", style="bold"))
        halves = []
        for training in (False, True):
            cells = [_cell([r for r in records if _is_in(r, i) and r["training"] == training]) for i in _COLUMNS]
            halves.append("".join(f"{c:>5}" for c in cells))
        first = records[0]
        line = f"{first['mode'] + '/' + first['norm_stats']:<18}{first['landscape']:<10}{'   '.join(halves)}"
        self.out.print(Text(line, style="" if all(r["passed"] for r in records) else "red"))
        self.held.clear()


_COLUMNS = range(len(FORMATS))


def _row_of(record: Record) -> tuple[object, ...]:
    return tuple(record[key] for key in ("model", "seed", "mode", "norm_stats", "landscape"))


def _place(outcome: Outcome) -> object:
    """Where a check failed: a node, or (end to end) a mode."""
    record, why = outcome
    first = record["first_difference"]
    return record["model"], first["node"] if first else why if "error" in record else record["training"]


def _is_in(record: Record, column: int) -> bool:
    form = FORMATS[column]
    return (record["exact"], record["dtype"]) == (form.exact, str(form.dtype).removeprefix("torch."))


def _cell(records: Sequence[Record]) -> str:
    if not records:
        return "-"
    if any("error" in r for r in records):
        return "err"
    return "pass" if all(r["passed"] for r in records) else "FAIL"


def _numbers(record: Record) -> tuple[str, ...]:
    if "error" in record:
        return ("error", "", "", "", "")
    ran = record["execution"] or record
    return (
        "pass" if record["passed"] else "FAIL",
        "" if record["num_free"] is None else str(record["num_free"]),
        "" if record["moved"] is None else f"{record['moved']:.1%}",
        "bitwise" if ran["bitwise_equal"] else f"{ran['max_rel']:.1e}",
        f"{sum(record['seconds'].values()):.1f}",
    )


# -- failures --------------------------------------------------------------------------------------------


def explain(out: Console, outcome: Outcome) -> None:
    """What a check found: in a sentence, and the first node that differs."""
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
    """Print a text beneath its row, in as many lines as it takes, perhaps behind a name."""
    width = 0 if name is None else 10
    for i, line in enumerate(textwrap.wrap(text, out.width - 6 - width)):
        head = "" if i or name is None else name
        out.print(Text(" " * 6).append(f"{head:<{width}}", style="bold").append(line))


def shortened(source: str) -> str:
    """A `file:line` from the current folder, or from the folder that packages are installed in."""
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


# -- the end ---------------------------------------------------------------------------------------------


def summarize(out: Console, records: Sequence[Record], seconds: float) -> None:
    """How many passed, and the models that did not."""
    wrong = {"failed": [r for r in records if not r["passed"] and "error" not in r]}
    wrong["could not be run"] = [r for r in records if "error" in r]
    bad = any(wrong.values())
    passed = len(records) - sum(map(len, wrong.values()))
    said = f"{passed} of {count(len(records), 'check')} passed in {seconds:.1f} s"
    if records:
        said += f" on {records[0]['device_name']}"
    out.print(Text(said, style="bold red" if bad else "bold green"))
    for what, found in wrong.items():
        names = list(dict.fromkeys(r["model"] for r in found))
        if names and len({r["model"] for r in records}) > 1:
            more = f" and {len(names) - 20} more" if len(names) > 20 else ""
            for line in textwrap.wrap(f"{what}: {', '.join(names[:20])}{more}", out.width):
                out.print(Text(line))
