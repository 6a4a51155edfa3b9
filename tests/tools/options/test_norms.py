"""`--norms`: of weights mode, in every command that plans with options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fxteleport as ft
from fxteleport.tools.cli import app

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm, self.head = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)
        with torch.no_grad():
            self.stem.weight.mul_(scale)

    def forward(self, x):
        return self.head(self.norm(self.stem(x)))

def net():
    return Net()

def large():
    return Net(300_000.0)

def example_inputs():
    return torch.randn(5, 8)
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "nets.py"
    path.write_text(CODE)
    return str(path)


def call(*words: str) -> Any:
    return CliRunner().invoke(app, [*words])


def facts(*words: str) -> dict[str, Any]:
    result = call(*words, "--json", "-")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_teleport(source: str, tmp_path: Path) -> None:
    exact = facts("teleport", f"{source}:net", "--mode", "weights")
    out = str(tmp_path / "moved")
    found = facts("teleport", f"{source}:net", "--mode", "weights", "--norms", "scaled", "--exact", "--output", out)
    assert (exact["norms"], exact["epsilon_gap"]) == ("exact", None)
    assert found["norms"] == "scaled"
    assert found["epsilon_gap"] < 1e-3
    assert found["num_free"] == exact["num_free"] + 1
    assert [c["kind"] for c in found["conditions"]].count("norm") == 1
    strict = call("teleport", f"{source}:net", "--mode", "weights", "--norms", "scaled", "--strict")
    assert strict.exit_code == 2
    assert "epsilon stays" in " ".join(strict.output.split())


def test_check_and_inspect(source: str) -> None:
    assert call("check", f"{source}:net", "--mode", "all", "--norms", "scaled", "--exact").exit_code == 0
    assert facts("inspect", f"{source}:net", "--mode", "weights", "--norms", "scaled")["norms"] == "scaled"


def test_fit_range(source: str) -> None:
    refused = call("fit-range", f"{source}:large", "--mode", "weights", "--no-redraw")
    assert refused.exit_code == 2
    found = facts("fit-range", f"{source}:large", "--mode", "weights", "--norms", "scaled", "--no-redraw")
    assert found["num_free"] > 0


def test_equalize(source: str) -> None:
    assert facts("equalize", f"{source}:net", "--mode", "weights", "--norms", "scaled")["norms"] == "scaled"


@pytest.mark.parametrize("command", ["teleport", "check", "inspect", "fit-range", "equalize"])
def test_bad_choices(source: str, command: str) -> None:
    for words, message in ((("--norms", "scaled"), "--mode weights"), (("--norms", "any"), "--norms is one of")):
        result = call(command, f"{source}:net", *words)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())


def test_a_saved_network_says_it(tmp_path: Path) -> None:
    """An unknown treatment in a file is refused."""
    found = facts("teleport", "test_vit", "--mode", "weights", "--norms", "scaled", "--output", str(tmp_path / "moved"))
    description = next(Path(f) for f in found["files"] if f.endswith(".json"))
    assert json.loads(description.read_text())["norms"] == "scaled"
    ft.load(tmp_path / "moved")
    description.write_text(description.read_text().replace('"scaled"', '"other"'))
    with pytest.raises(ft.CheckpointError, match="corrupt"):
        ft.load(tmp_path / "moved")
