"""Console: what is printed, where, and how wide.

Standard output has what a command prints, and nothing else; progress bars, warnings and output of libraries go to
standard error, unless both are one terminal.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from datetime import timedelta
from typing import IO, Any, TextIO

from rich.console import Console
from rich.control import Control
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TimeElapsedColumn,
)
from rich.segment import ControlType
from rich.table import Column, Table
from rich.text import Text

from fxteleport.atomic_files import require_writable, write_text
from fxteleport.passes.errors import CheckpointError

WIDTH = 80


_reserved: ContextVar[TextIO | None] = ContextVar("standard output, which is the command's own", default=None)


@contextlib.contextmanager
def reserved_output() -> Iterator[None]:
    """While this lasts, standard output has only what a command prints through its console.

    Output of libraries and of the user's own model goes to standard error.
    """
    token = _reserved.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _reserved.reset(token)


def console(json_path: str | None = None) -> Output:
    """The console of standard output; silent where standard output is for JSON.

    Raises:
        CheckpointError: the JSON file cannot be written; raised before the work.
    """
    if json_path not in (None, "-"):
        require_writable(str(json_path))
    file = _reserved.get() or sys.stdout
    options: dict[str, Any] = {"file": file, "quiet": json_path == "-", "highlight": False, "markup": False}
    out = Output(**options, emoji=False)
    if out.is_terminal:
        return out
    return Output(**options, emoji=False, width=WIDTH, force_terminal=False, no_color=True)


def named_rows(rows: Iterable[tuple[str, str]]) -> Table:
    """A table of facts with their names, for the summary of a command."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


class Output(Console):
    """The console of a command: rows on standard output, and a progress bar.

    If standard output is a terminal, both are on one console there. Otherwise the bar is on standard error, if that is
    a terminal, and rows have no trailing spaces.
    """

    _bar: Console | None = None  # the console of the bar, if another one than this

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, and flush, also into a pipe."""
        if self.is_terminal:
            super().print(*objects, **options)
            return
        with self.capture() as held:
            super().print(*objects, **options)
        if not self.quiet:
            self.write("".join(f"{line.rstrip()}\n" for line in held.get().splitlines()))

    def write(self, text: str) -> None:
        """Write lines unchanged, also where the console is silent."""
        if self._bar is not None:  # its next refresh draws it below the lines
            self._bar.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
        write_output(self.file, text)

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """A word on the terminal, if there is one, while torch and the model's library are imported: for seconds."""
        console = self._for_bar()
        if not console.is_terminal:
            yield
            return
        with Progress(SpinnerColumn(), _What(), console=console, transient=True, redirect_stderr=_is_terminal()) as bar:
            bar.add_task("starting", total=None)
            yield

    def _for_bar(self) -> Console:
        return self if self.is_terminal and not self.quiet else Console(stderr=True, highlight=False)

    @contextlib.contextmanager
    def progress(self, total: int, known: int = 0, estimate: bool = True) -> Iterator[Callable[..., None]]:
        """A progress bar on the terminal, if there is one; call the value with the next step, or with steps done.

        Args:
            total: the number of steps.
            known: steps that take no time, since their results exist.
            estimate: show the remaining time; not for steps of unequal length.
        """
        console = self._for_bar()
        shown = console.is_terminal
        columns = _columns(known, estimate)
        bar = Progress(*columns, console=console, transient=True, disable=not shown, redirect_stderr=_is_terminal())
        with bar:
            self._bar = console if shown and console is not self else None
            task = bar.add_task("starting", total=total)
            try:
                yield lambda what, more=0: bar.update(task, description=what, advance=more)
            finally:
                self._bar = None


def _columns(known: int, estimate: bool) -> list[ProgressColumn]:
    """The columns of a bar, whose line a narrow terminal does not break: what is being done is cut."""
    done = [MofNCompleteColumn(table_column=Column(no_wrap=True)), TimeElapsedColumn(table_column=Column(no_wrap=True))]
    return [SpinnerColumn(), _What(), BarColumn(bar_width=24), *done, *([_Left(known)] if estimate else [])]


def _is_terminal() -> bool:
    """Whether output of others would disturb a bar."""
    return sys.stderr.isatty()


class _What(ProgressColumn):
    """What is being done, on one line: the only part that gives way in a narrow terminal."""

    def render(self, task: Task) -> Text:
        """The description, cut at its end if it must be."""
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class _Left(ProgressColumn):
    """The remaining time, estimated from the steps done so far."""

    def __init__(self, known: int) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self.known = known

    def render(self, task: Task) -> Text:
        """Nothing until the first step is done."""
        steps = task.completed - self.known
        if task.elapsed is None or task.remaining is None or steps <= 0 or task.finished:
            return Text("")
        left = timedelta(seconds=round(task.elapsed / steps * task.remaining))
        return Text(f"about {left} left", style="progress.remaining")


def write_json(path: str | None, data: Any) -> None:
    """Write JSON to a file, or to standard output for "-"; nothing for None.

    Raises:
        CheckpointError: the file cannot be written.
    """
    if path is None:
        return
    text = json.dumps(_finite(data), indent=2, allow_nan=False) + "\n"
    if path == "-":
        write_output(_reserved.get() or sys.stdout, text)
    else:
        write_text(path, text)


def write_output(file: IO[str], text: str) -> None:
    """Write to standard output at once.

    Raises:
        CheckpointError: it cannot be written (a full disk).
        BrokenPipeError: the reader has closed it.
    """
    try:
        file.write(text)
        file.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot write standard output: {error.strerror or error}") from None


def json_line(data: Any) -> str:
    """One line of JSON."""
    return json.dumps(_finite(data), allow_nan=False) + "\n"


def _finite(data: Any) -> Any:
    """Replace infinity and NaN, which JSON does not have, by null."""
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
