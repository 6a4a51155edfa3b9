"""`fxteleport teleport --stream`: what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import fxteleport as ft
from fxteleport.tools.cli import app

SMALL = ["teleport", "test_vit", "--stream"]


def call(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """test_vit in two shards."""
    folder = tmp_path / "source"
    folder.mkdir()
    state = ft.randomize(timm.create_model("test_vit")).state_dict()
    names = list(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({n: state[n] for n in own}, folder / file)
    places = {n: file for file, own in parts.items() for n in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def load(folder: Path) -> torch.nn.Module:
    model = timm.create_model("test_vit").eval()
    model.load_state_dict({n: t for file in ("a", "b") for n, t in load_file(folder / f"{file}.safetensors").items()})
    return model


def test_stream(source: Path, tmp_path: Path) -> None:
    done = call(*SMALL, "--checkpoint", source, "--output", tmp_path / "moved", "--exact", "--json", tmp_path / "j")
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "j").read_text())
    assert (facts["mode"], facts["tensors"], facts["exact"]) == ("weights", len(list(load(source).state_dict())), True)
    assert all(Path(f).exists() for f in facts["files"])
    one, other, x = load(source), load(tmp_path / "moved"), torch.randn(2, 3, 160, 160)
    assert torch.equal(one(x), other(x))
    assert facts["moved"] > 0.5
    assert not torch.equal(one.blocks[0].attn.qkv.weight, other.blocks[0].attn.qkv.weight)

    plan = ft.plan(one, x, mode="weights")
    cob = ft.ChangeOfBasis.load(tmp_path / "moved.cob.safetensors")
    ft.stream(plan, cob.inverse(), tmp_path / "moved", tmp_path / "back")
    assert all((tmp_path / "back" / f.name).read_bytes() == f.read_bytes() for f in source.iterdir())


def test_a_seed_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        assert call(*SMALL, "--checkpoint", source, "--output", tmp_path / name).exit_code == 0
    assert (tmp_path / "one" / "a.safetensors").read_bytes() == (tmp_path / "other" / "a.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--output", "OUT"], "pass --checkpoint FOLDER_OR_FILE and --output"),
        (["--checkpoint", "SOURCE"], "pass --checkpoint FOLDER_OR_FILE and --output"),
        (["--checkpoint", "SOURCE", "--output", "SOURCE"], "is the source"),
        (["--checkpoint", "missing", "--output", "OUT"], "there is no checkpoint 'missing'"),
        (["--checkpoint", "SOURCE", "--output", "OUT", "--mode", "full"], "--mode full does not go with --stream"),
        (["--checkpoint", "SOURCE", "--output", "OUT", "--dtype", "bfloat16"], "--dtype does not go with --stream"),
        (["--checkpoint", "SOURCE", "--output", "OUT", "--pretrained"], "--pretrained does not go with --stream"),
        (["--checkpoint", "SOURCE", "--output", "OUT", "--norm-stats", "wrapped"], "weights forbids"),
    ],
)
def test_what_it_refuses(source: Path, tmp_path: Path, more: list[str], message: str) -> None:
    places = {"SOURCE": str(source), "OUT": str(tmp_path / "out")}
    done = call(*SMALL, *(places.get(word, word) for word in more))
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_another_network(source: Path, tmp_path: Path) -> None:
    done = call("teleport", "test_resnet", "--stream", "--checkpoint", source, "--output", tmp_path / "out")
    assert done.exit_code == 2
    assert "is not a checkpoint of this model" in done.stderr
