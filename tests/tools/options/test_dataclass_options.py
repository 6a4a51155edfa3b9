"""Commands whose options come in dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from fxteleport.tools.options.dataclass_options import option, register

SEEN: list[Any] = []


@dataclass(frozen=True)
class Shape:
    width: Annotated[int, option("--width", "Shape", "How wide.", "N", min=1)] = 3
    round: Annotated[bool, option("--round", "Shape", "No corners.")] = False
    inner: str = "not an option"


def draw(
    name: str, shape: Shape, *, colour: Annotated[str, option("--colour", "Ink", "Which.", "NAME")] = "red"
) -> None:
    """Draw a shape."""
    SEEN.append((name, shape, colour))


@pytest.mark.parametrize(
    ("args", "seen"),
    [
        (["a"], ("a", Shape(), "red")),
        (["a", "--width", "5", "--round", "--colour", "blue"], ("a", Shape(5, True), "blue")),
    ],
)
def test_a_dataclass_is_an_option_a_field(args: list[str], seen: Any) -> None:
    app = typer.Typer()
    register(app, draw)
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    assert SEEN.pop() == seen


def test_the_help() -> None:
    app = typer.Typer()
    register(app, draw)
    said = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).output
    assert "Draw a shape." in said and "--width" in said and "N [x>=1]" in said and "Ink" in said
    assert "<bool>" not in said and "--inner" not in said


def test_a_value_that_cannot_be() -> None:
    app = typer.Typer()
    register(app, draw)
    assert CliRunner().invoke(app, ["a", "--width", "0"]).exit_code == 2
