"""The file of a survey: a CSV row for each network, appended when it is done, so that a survey can be resumed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fxteleport.atomic_files import write_text
from fxteleport.passes.errors import CheckpointError
from fxteleport.tools.survey.row import COLUMNS, Row


def read_rows(path: Path) -> list[Row]:
    """The rows of a coverage file.

    Raises:
        CheckpointError: it is no such file.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise CheckpointError(f"'{path}' has other columns than a coverage file: write to another file")
            rows = []
            for line in reader:
                if None in line or None in line.values():
                    raise CheckpointError(f"line {reader.line_num} of '{path}' has not one field a column: remove it")
                rows.append(Row(**{k: _parsed(k, v) for k, v in line.items()}))
            return rows
    except (OSError, ValueError, csv.Error) as error:
        raise CheckpointError(f"cannot read '{path}': {error}") from None


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replace a coverage file."""
    lines = [",".join(COLUMNS) + "\n", *map(_line, rows)]
    write_text(path, "".join(lines))


def append_row(path: Path, row: Row) -> None:
    """Add a row to a coverage file.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
    except OSError as error:
        raise CheckpointError(f"cannot write '{path}': {error.strerror or error}") from None


def _line(row: Row) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow("" if v is None else v for v in asdict(row).values())
    return text.getvalue()


def _parsed(column: str, text: str) -> Any:
    kind = str(Row.__dataclass_fields__[column].type)
    if text == "":
        return None if "None" in kind else text
    if "bool" in kind:
        return text == "True"
    return int(text) if "int" in kind else float(text) if "float" in kind else text
