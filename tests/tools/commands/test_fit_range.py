"""`fxteleport fit-range`: prints, writes, and refuses what cannot be."""

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

def net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    with torch.no_grad():
        net[0].weight *= 2 ** 17
        net[0].bias *= 2 ** 17
        net[2].weight *= 2 ** -17
    return net

def large():
    large = net()
    with torch.no_grad():
        large[2].bias += 1e6
    return large

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

def not_a_number():
    broken = net()
    with torch.no_grad():
        broken[2].bias[0] = float("nan")
    return broken

def example_inputs():
    return torch.randn(2, 3, 8, 8)
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "nets.py"
    path.write_text(CODE)
    return str(path)


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["fit-range", *words])


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_writes_the_fitted_weights(source: str, tmp_path: Path, mode: str) -> None:
    output = tmp_path / "fitted"
    done = call(f"{source}:net", "--mode", mode, "--output", str(output), "--json", str(tmp_path / "facts"))
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "facts").read_text())
    assert facts["bitwise_equal"]
    assert any(row["before"]["overflow"] for row in facts["ranges"])
    assert not any(row["after"]["overflow"] for row in facts["ranges"])
    assert ft.ChangeOfBasis.load(f"{output}.cob.safetensors").is_exact
    assert (tmp_path / "fitted.safetensors").is_file()
    assert json.loads((tmp_path / "fitted.json").read_text())["to"] == "float16"


def test_nothing_free_is_status_1(source: str) -> None:
    done = call(f"{source}:fixed")
    assert done.exit_code == 1
    assert "Nothing was changed: nothing in this plan is free" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["net", "--headroom", "0"], "headroom is a factor from 1"),
        (["net", "--headroom", "1e9"], "headroom is a factor from 1"),
        (["net", "--to", "int8"], "--to is one of float16"),
        (["net", "--images", "nowhere"], "no folder 'nowhere'"),
        (["net", "--output", "nowhere/x"], "its folder does not exist"),
        (["large"], "no change of basis of this plan keeps"),
        (["not_a_number"], "holds NaN"),
    ],
)
def test_a_wrong_call_is_status_2(source: str, words: list[str], said: str) -> None:
    done = call(f"{source}:{words[0]}", *words[1:])
    assert done.exit_code == 2, done.output
    assert said in done.output
