"""What commands print, where: standard output, a bar, and what libraries say meanwhile."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress, Task, TaskID

from fxteleport.tools import console as console_module
from fxteleport.tools.console import console, reserved_output, write_json

COMMAND = [sys.executable, "-m", "fxteleport"]
LOUD = """
import torch
from torch import nn

example_inputs = lambda: torch.randn(4, 3)

class Loud(nn.Sequential):
    def forward(self, x):
        print("loud")
        return super().forward(x)

def make(): return Loud(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
def other(): return make()
"""


@pytest.fixture
def loud(tmp_path: Path) -> str:
    (tmp_path / "loud.py").write_text(LOUD)
    return f"{tmp_path / 'loud.py'}:make"


def other(loud: str) -> str:
    """Another network of the same file."""
    return loud.replace(":make", ":other")


def run(*args: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *args], text=True, timeout=300, **{"capture_output": True, **more})


def on_a_terminal(*args: str) -> list[str]:
    """The lines that a terminal of 3000 columns shows in the end, of what was written to it piece by piece."""
    pyte = pytest.importorskip("pyte")
    screen = pyte.Screen(3000, 50)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": "3000", "LINES": "50", "TERM": "xterm-256color"}
    with subprocess.Popen([*COMMAND, *args], stdout=theirs, stderr=theirs, stdin=theirs, env=env) as running:
        os.close(theirs)
        while piece := _read(ours):
            stream.feed(piece)
        assert running.wait(timeout=300) == 0
    os.close(ours)
    return [line.rstrip() for line in screen.display if line.strip()]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # as Linux says that the other end is closed
        return b""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_rows_and_bar_share_a_terminal(loud: str) -> None:
    """Each row has a line of its own, and nothing of the bar stays; what the model prints has its own line too."""
    lines = on_a_terminal("check", loud, other(loud), "--exact")
    assert lines[0].split() == ["free", "moved", "diff", "seconds", "model"]
    rows = [line for line in lines if line.startswith("pass")]
    assert [r.split()[-1] for r in rows] == [loud, other(loud)]
    assert "loud" in lines and lines[-1].startswith("2 of 2 checks passed")
    assert not any(glyph in line for line in lines for glyph in "━╸╺⠋⠙")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_lines_of_json_on_a_terminal_are_whole(loud: str) -> None:
    lines = on_a_terminal("check", loud, other(loud), "--jsonl", "-")
    assert [json.loads(line)["passed"] for line in lines if line != "loud"] == [True, True]


def test_standard_output_is_the_commands_own(loud: str) -> None:
    """What a model prints goes to standard error, from worker processes too."""
    done = run("check", loud, other(loud), "--json", "-", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert [r["passed"] for r in json.loads(done.stdout)] == [True, True] and "loud" in done.stderr
    done = run("teleport", loud, "--json", "-")
    assert json.loads(done.stdout)["passed"] and "loud" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
@pytest.mark.parametrize("call", ["check {} --seeds 3", "check --help", "--help"])
def test_a_reader_that_has_enough_is_no_failed_check(call: str, loud: str) -> None:
    words = " ".join([*COMMAND, call.format(loud)])
    done = subprocess.run(
        ["bash", "-c", f"{words} | true; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr.replace("loud\n", "")) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said(loud: str) -> None:
    with open("/dev/full", "w") as full:
        done = run("teleport", loud, "--json", "-", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.endswith("fxteleport: error: cannot write standard output: No space left on device\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_process_substitution(loud: str, tmp_path: Path) -> None:
    words = " ".join([*COMMAND, "check", loud, "--json"])
    done = subprocess.run(
        ["bash", "-c", f"{words} >(cat > {tmp_path}/got); wait $!"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "got").read_text())[0]["passed"]


@pytest.mark.parametrize("option", ["--json", "--jsonl", "--junit"])
def test_what_cannot_be_written_is_said_before_the_work(option: str, tmp_path: Path) -> None:
    done = run("check", "resnet18", option, str(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"fxteleport: error: cannot write '{tmp_path}': it is a folder\n"


def test_an_estimate_leaves_out_what_was_there() -> None:
    left = console_module._Left(known=4)
    for done, said in ((0, ""), (4, ""), (5, "about 0:01:40 left"), (9, "about 0:00:04 left"), (10, "")):
        task = Task(TaskID(0), "", 10, done, _get_time=lambda: 20.0)
        task.start_time = 0.0
        task.finished_time = 20.0 if done == 10 else None
        assert str(left.render(task)) == said


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_bar_stays_one_line(width: int) -> None:
    screen = Console(width=width, file=io.StringIO(), force_terminal=True)
    bar = Progress(*console_module._columns(known=0, estimate=True), console=screen)
    task = bar.add_task("histogram: vit_base_patch16_clip_224.laion2b_ft_in12k_in1k, 2 at a time", total=1000)
    bar.update(task, completed=700)
    lines = screen.render_lines(bar.get_renderable(), pad=False)
    text = "".join(segment.text for segment in lines[0])
    assert len(lines) == 1 and len(text) <= width and "700/1000" in text and text.rstrip().endswith("left")


def test_json_goes_to_what_was_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with reserved_output():
        print("a library speaks")
        console("-").print("silent")
        console().print("a row")
        write_json("-", {"a": float("inf")})
    caught = capsys.readouterr()
    assert caught.out == 'a row\n{\n  "a": null\n}\n' and caught.err == "a library speaks\n"
