"""Write what the pages print anew, and run their code: python docs/outputs.py README.md docs/inspect.md

- A `console` block holds commands, each a line `$ fxteleport ...` (or several, joined by a backslash), and below each
  what it prints. A line `...` stands for lines that are left out.
- The `python` blocks of a page are run one after the other, as a reader types them; a `text` block right behind one
  holds what it prints.
  A comment `<!-- setup: CODE -->` before a block (of either kind) is run first: for what the page takes for given.

Figures that no two runs share (seconds, rounding, the machine) are not compared: see `alike`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FENCE = re.compile(r"(?:<!-- setup:\n(?P<setup>.*?)-->\n+)?^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.M | re.S)
_REST = "..."
_BEHIND = "```\n\n```text\n"  # between a block of code and what it prints


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        kind: what stands behind the fence: "python", "console", "text", "bash".
        setup: code that is run before it and not shown.
        line: its line in the page.
        start, stop: where its body is in the page's text.
    """

    kind: str
    body: str
    setup: str
    line: int
    start: int
    stop: int


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page, in order."""
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("body"))
        yield Block(found["kind"], found["body"], found["setup"] or "", line, *found.span("body"))


def run_python(text: str, page: str) -> Iterator[tuple[Block, str]]:
    """Run a page's `python` blocks in one namespace; each with what it prints."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(text):
        if block.kind == "python":
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile(block.setup, f"{page}, setup", "exec"), namespace)
                exec(compile("\n" * block.line + block.body, page, "exec"), namespace)
            yield block, said.getvalue()


def refreshed(text: str, page: str, command: Callable[[list[str]], str]) -> str:
    """The page with all that it prints replaced by what is printed now."""
    new: list[tuple[int, int, str]] = []
    printed = {block.stop: said for block, said in run_python(text, page)}
    before = -1
    for block in blocks(text):
        if block.kind == "console":
            exec(compile(block.setup, f"{page}, setup", "exec"), {"__name__": "__main__"})
            new.append((block.start, block.stop, "".join(_console(block.body, command))))
        if block.kind == "text" and before in printed and text[before : block.start] == _BEHIND:
            new.append((block.start, block.stop, printed[before]))
        before = block.stop
    for start, stop, body in reversed(new):
        text = text[:start] + body + text[stop:]
    return text


def _console(body: str, command: Callable[[list[str]], str]) -> Iterator[str]:
    """A block's commands with their outputs."""
    for part in re.split(r"^(?=\$ )", body, flags=re.M):
        if not part.startswith("$ fxteleport"):
            yield part
            continue
        call = re.match(r"\$ ((?:.*\\\n)*.*)\n", part)
        assert call is not None, f"no command in {part!r}"
        said = command(shlex.split(call[1].replace("\\\n", " "))[1:]).rstrip("\n").splitlines()
        old = part[call.end() :].rstrip("\n").splitlines()
        if _REST in old:
            first = old.index(_REST)
            last = len(old) - first - 1
            said = [*said[:first], _REST, *(said[-last:] if last else [])]
        behind = len(part) - len(part.rstrip("\n"))  # a line is left free between two commands
        yield "\n".join([f"$ {call[1]}", *said]) + "\n" * behind


def printed_by(arguments: list[str]) -> str:
    """What `fxteleport` prints, on standard output and on standard error."""
    from typer.testing import CliRunner

    from fxteleport.tools.cli import app

    return CliRunner().invoke(app, arguments).output


_VARYING = (
    (r"\d+\.\d+e-\d+", "<rounding>"),
    (r"exercise \d+\.\d% of", "exercise <share> of"),
    (r"passed in \d+\.\d s on .*", "passed in <time>"),
    (r"\b(capture|constrain|solve|rewrite|verify) \d+\.\d", r"\1 <time>"),
    (r"^seconds +\d+\.\d$", "seconds <time>"),
    (r"\d+\.\d+ from float64", "<rounding> from float64"),
    (r"the original \d\.\d+", "the original <rounding>"),
    (r"^( +(?:expected|actual) +-?\d+\.\d{3})\d+", r"\1"),
    (r"checks? passed in \d+\.\d s on .*", "passed in <time>"),
    (r"(\"(?:capture|constrain|solve|rewrite|verify|stream|seconds)\": )\d[\d.e-]*", r"\1<time>"),
    (r"\"device_name\": .*", "<device>"),
    (r"(\d\.\d{4})\d{4,}", r"\1"),
    (r"(\d) \d+\.\d\d$", r"\1 <time>"),
    (r"^((?:pass|FAIL) .*?) \d+\.\d  ", r"\1 <time>  "),
)


def alike(a: str, b: str) -> bool:
    """Whether two pages are the same but for figures that no two runs share, and what these do to line breaks."""
    return _settled(a) == _settled(b)


def _settled(text: str) -> str:
    for pattern, name in _VARYING:
        text = re.sub(pattern, name, text, flags=re.M)
    return " ".join(text.split())


if __name__ == "__main__":
    for page, name in [(Path(name).resolve(), name) for name in sys.argv[1:]]:
        with tempfile.TemporaryDirectory() as folder:  # for what the commands write
            os.chdir(folder)
            page.write_text(refreshed(page.read_text(), name, printed_by))
