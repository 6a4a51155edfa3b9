"""The table of `check --paranoid`: a row for each plan and law, a cell for each number format and mode."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from fxteleport.tools.checking.failure_text import explain
from fxteleport.tools.checking.full_matrix import FORMATS, LEGEND
from fxteleport.tools.checking.records import Outcome, Record

_COLUMNS = range(len(FORMATS))
_NAMED = 5


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
        firsts: dict[object, Outcome] = {}
        for outcome in self.failures:
            firsts.setdefault(_place(outcome), outcome)
        for outcome in list(firsts.values())[:_NAMED]:
            record = outcome[0]
            mode = "train" if record["training"] else "eval"
            how = f"{record['mode']}/{record['norm_stats']} {record['landscape']}{' exact' * record['exact']}"
            said = f"{record['model']}: {how}, {record['dtype']}, batch {record['batch']}, {mode} mode"
            self.out.print(Text(said, style="red"))
            explain(self.out, outcome)
        if len(firsts) > _NAMED:
            self.out.print(Text(f"and at {len(firsts) - _NAMED} more places (see --json)"))

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


def _row_of(record: Record) -> tuple[object, ...]:
    return tuple(record[key] for key in ("model", "seed", "mode", "norm_stats", "landscape"))


def _place(outcome: Outcome) -> object:
    """Where a check failed: a node, or (end to end) a mode."""
    record, why = outcome
    first = record["first_difference"]
    return record["model"], first["node"] if first else why if "error" in record else record["training"]


def _is_in(record: Record, column: int) -> bool:
    column_format = FORMATS[column]
    return (record["exact"], record["dtype"]) == (column_format.exact, str(column_format.dtype).removeprefix("torch."))


def _cell(records: Sequence[Record]) -> str:
    if not records:
        return "-"
    if any("error" in r for r in records):
        return "err"
    return "pass" if all(r["passed"] for r in records) else "FAIL"
