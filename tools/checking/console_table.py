"""The table of `check`, printed as checks finish, and the summary beneath it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from fxteleport.tools.checking.failure_text import explain
from fxteleport.tools.checking.records import Outcome, Record
from fxteleport.tools.console import count

_HEADER = ("", "free", "moved", "diff", "seconds")


class Table:
    """A row for each check; where a model has several, its name is above them.

    With `wordy`, passed checks are explained as failed ones are.
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
        """Do nothing: all rows are printed."""

    def _row(self, cells: Sequence[str], how: Sequence[str], model: str, style: str) -> None:
        status, *numbers = cells
        line = f"{status:<6}" + "".join(f"{n:>9}" for n in numbers)
        line += "".join(f"  {h:<18}" for h in how) + (f"  {model}" if model else "")
        self.out.print(Text(line.rstrip(), style=style), no_wrap=True, overflow="ellipsis")


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


def summarize(out: Console, records: Sequence[Record], seconds: float) -> None:
    """Print how many checks passed, and the models that failed."""
    wrong = {"failed": [r for r in records if not r["passed"] and "error" not in r]}
    wrong["could not be run"] = [r for r in records if "error" in r]
    bad = any(wrong.values())
    passed = len(records) - sum(map(len, wrong.values()))
    said = f"{passed} of {count(len(records), 'check')} passed in {seconds:.1f} s"
    if records:
        said += f" on {records[0]['device_name']}"
    out.print(Text(said, style="bold red" if bad else "bold green"))
    for what, models in wrong.items():
        names = list(dict.fromkeys(r["model"] for r in models))
        if names and len({r["model"] for r in records}) > 1:
            more = f" and {len(names) - 20} more" if len(names) > 20 else ""
            for line in textwrap.wrap(f"{what}: {', '.join(names[:20])}{more}", out.width):
                out.print(Text(line))
