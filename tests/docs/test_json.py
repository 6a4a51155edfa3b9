"""docs/json.md names every field that a command writes, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fxteleport.tools.cli import app
from fxteleport.tools.survey.row import COLUMNS

DOCS = Path(__file__).parents[2] / "docs"


def documented(page: str, head: str) -> set[str]:
    """The names in the first column of the table below a heading."""
    section = (DOCS / page).read_text().split(f"\n## {head}\n")[1].split("\n## ")[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([\w]+)`", row.split("(")[0])}


def written(*arguments: str) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--json", "-"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_check_and_teleport() -> None:
    checked = documented("json.md", "check")
    (record,) = written("check", "test_resnet", "--exact")
    assert set(record) == checked - {"error"}
    teleported = written("teleport", "test_resnet", "--output", "net")
    assert set(teleported) == checked - {"error"} | documented("json.md", "teleport")
    streamed = written("teleport", "test_resnet", "--stream", "--checkpoint", "net.safetensors", "--output", "moved")
    assert set(streamed) == documented("json.md", "teleport --stream")


def test_a_check_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("def make():\n    raise RuntimeError('no')\n")
    done = CliRunner().invoke(app, ["check", "none.py:make", "--json", "-"])
    assert done.exit_code == 2
    assert set(json.loads(done.stdout)[0]) == documented("json.md", "check")


def test_inspect() -> None:
    given = written("inspect", "test_resnet", "--pinned", "--diff", "--html", "page.html")
    assert set(given) == documented("inspect.md", "JSON")


@pytest.mark.parametrize("command", ["equalize", "fit-range"])
def test_commands_that_fit_into_a_format(command: str) -> None:
    assert set(written(command, "test_resnet")) == documented("json.md", command)


def test_coverage() -> None:
    assert set(COLUMNS) == documented("json.md", "coverage")
