"""Console: what is printed, where, and how wide."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from fxteleport.atomic_files import write_text
from fxteleport.passes.errors import CheckpointError

WIDTH = 80


def console(json_path: str | None = None) -> Console:
    """Standard output; silent where it is to carry JSON and nothing else.

    Raises:
        CheckpointError: the JSON file's folder does not exist: better said before the work than after.
    """
    if json_path not in (None, "-") and not Path(str(json_path)).parent.is_dir():
        raise CheckpointError(f"cannot write '{json_path}': its folder does not exist")
    out = Console(highlight=False, markup=False, emoji=False, quiet=json_path == "-")
    return out if out.is_terminal else _Piped(**_PLAIN, quiet=json_path == "-")


_PLAIN: dict[str, Any] = {
    "width": WIDTH, "highlight": False, "markup": False, "emoji": False, "force_terminal": False, "no_color": True,
}  # fmt: skip


class _Piped(Console):
    """Without the spaces at the ends of lines, which tables pad with."""

    def print(self, *objects: Any, **options: Any) -> None:
        with self.capture() as held:
            super().print(*objects, **options)
        self.file.write("".join(f"{line.rstrip()}\n" for line in held.get().splitlines()))


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[..., None]]:
    """A bar on standard error, if that is a terminal; call the value with what comes next, and with steps done."""
    err = Console(stderr=True, highlight=False)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=total)

        def step(what: str, done: int = 0) -> None:
            bar.update(task, description=what, advance=done)

        yield step


def write_json(path: str | None, data: Any) -> None:
    """Write JSON to a file, or to standard output for "-"; nothing for None.

    Raises:
        CheckpointError: the file cannot be written.
    """
    if path is None:
        return
    text = json.dumps(_finite(data), indent=2, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
    else:
        write_text(path, text)


def json_line(data: Any) -> str:
    """One line of JSON."""
    return json.dumps(_finite(data), allow_nan=False) + "\n"


def _finite(data: Any) -> Any:
    """JSON has no infinity and no NaN: they become null."""
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, dict):
        return {k: _finite(v) for k, v in data.items()}
    return [_finite(v) for v in data] if isinstance(data, (list, tuple)) else data


def one_line(error: BaseException) -> str:
    """An error's message without line breaks or control characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c for c in text if c.isprintable())


def count(n: int, what: str) -> str:
    """A number with its noun: 1 group, 2 groups, 11,689,512 parameters."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"
