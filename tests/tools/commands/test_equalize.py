"""`fxteleport equalize`: prints, writes, and refuses what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import fxteleport as ft
from fxteleport.tools.cli import app

CODE = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 4, 1)).eval()

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

def integers():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 4))

def example_inputs():
    return torch.randn(2, 3, 8, 8)
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "nets.py"
    path.write_text(CODE)
    return str(path)


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["equalize", *words])


def test_writes_the_equalised_weights(source: str, tmp_path: Path) -> None:
    output = tmp_path / "equal"
    done = call(f"{source}:net", "--bits", "6", "--exact", "--output", str(output), "--json", str(tmp_path / "facts"))
    assert done.exit_code == 0, done.output
    assert "1 folded, 0 kept" in done.output
    facts = json.loads((tmp_path / "facts").read_text())
    assert facts["passed"]
    assert facts["bitwise_equal"]
    assert facts["objective"]["after"] <= facts["objective"]["before"]
    assert ft.ChangeOfBasis.load(f"{output}.cob.safetensors").is_exact
    assert (tmp_path / "equal.safetensors").is_file()
    assert json.loads((tmp_path / "equal.json").read_text())["method"] == "range"


def test_nothing_free_is_status_1(source: str) -> None:
    done = call(f"{source}:fixed")
    assert done.exit_code == 1
    assert "Nothing was changed: no neuron of this network is free" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "smoothquant"], "needs data"),
        (["--bits", "99"], "bits is a whole number"),
        (["--bound", "1"], "bound is a factor above 1"),
        (["--images", "nowhere"], "no folder 'nowhere'"),
        (["--output", "nowhere/x"], "its folder does not exist"),
    ],
)
def test_a_wrong_call_is_status_2(source: str, words: list[str], said: str) -> None:
    done = call(f"{source}:net", *words)
    assert done.exit_code == 2
    assert said in done.output


def test_pictures_are_the_data(source: str, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        pixels = torch.randint(0, 255, (8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    done = call(f"{source}:net", "--method", "noise", "--activation-bits", "8", "--images", str(folder))
    assert done.exit_code == 0, done.output
    assert "inputs 8 bits" in done.output
