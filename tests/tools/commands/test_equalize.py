"""`fxteleport equalize`: prints, writes, and refuses what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
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


@pytest.mark.parametrize("bits", ["2", "4", "8"])
@pytest.mark.parametrize("method", ["range", "l2", "noise"])
def test_without_pictures_the_outputs_err_no_more(source: str, tmp_path: Path, method: str, bits: str) -> None:
    """The model of the noise may promise what the outputs do not keep; then the network stays as it is."""
    output = tmp_path / "equal"
    done = call(f"{source}:net", "--bits", bits, "--method", method, "--output", str(output))
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "equal.json").read_text())
    error, taken = facts["output_error"], facts["share"] > 0
    assert error["after"] <= error["before"]
    assert taken or (ft.ChangeOfBasis.load(f"{output}.cob.safetensors").values == 1).all()
    assert taken or "nothing is taken" in done.output


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


@pytest.fixture
def shard(source: str, tmp_path: Path) -> Path:
    """The weights of a network that a change of basis has spread."""
    scope: dict[str, Any] = {}
    exec(CODE, scope)
    torch.manual_seed(0)
    model, x = scope["integers"](), scope["example_inputs"]()
    plan = ft.plan(model, x, mode="weights")
    plan.apply_(plan.cob(torch.tensor([1.0, 8.0, 64.0, 0.125])))
    path = tmp_path / "spread.safetensors"
    save_file(model.state_dict(), path)
    return path


def test_a_checkpoint_is_equalised_from_disk_to_disk(source: str, shard: Path, tmp_path: Path) -> None:
    output = tmp_path / "equal.safetensors"
    done = call(f"{source}:integers", "--stream", "--checkpoint", str(shard), "--output", str(output), "--exact",
                "--json", str(tmp_path / "facts"))  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "never in memory together" in done.output
    facts = json.loads((tmp_path / "facts").read_text())
    assert facts["mode"] == "weights" and facts["noise"]["after"] < facts["noise"]["before"]
    assert facts["files"] == [str(output), str(tmp_path / "equal.cob.safetensors")]
    scope: dict[str, Any] = {}
    exec(CODE, scope)
    before, after, x = scope["integers"](), scope["integers"](), scope["example_inputs"]()
    before.load_state_dict(load_file(shard))
    after.load_state_dict(load_file(output))
    assert torch.equal(before(x), after(x)) and not torch.equal(before[1].weight, after[1].weight)
    rows = after[1].weight.abs().amax(1)
    assert rows.max() / rows.min() < before[1].weight.abs().amax(1).max() / before[1].weight.abs().amax(1).min()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "pass --checkpoint"),
        (["--method", "l2"], "--method l2 does not go with --stream"),
        (["--mode", "full"], "--mode full does not go with --stream"),
        (["--dtype", "float16"], "--dtype does not go with --stream"),
    ],
)
def test_a_stream_needs_no_weights_in_memory(source: str, options: list[str], said: str) -> None:
    done = call(f"{source}:integers", "--stream", *options)
    assert done.exit_code == 2 and said in done.output


def test_a_stream_of_nothing_free_is_status_1(source: str, tmp_path: Path) -> None:
    save_file({"1.weight": torch.randn(4, 192), "1.bias": torch.randn(4)}, tmp_path / "w.safetensors")
    output = tmp_path / "o.safetensors"
    done = call(f"{source}:fixed", "--stream", "--checkpoint", str(tmp_path / "w.safetensors"), "--output", str(output))
    assert done.exit_code == 1 and "Nothing was changed" in done.output and not output.exists()
