"""A teleported network written to disk comes back bit for bit, and nothing else passes for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.rewrite.teleported_network import TeleportedModule
from fxteleport.tensor_files import read_tensors, write_tensors


class Tied(nn.Module):
    """Two names for one weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden = nn.Embedding(11, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.offset: Tensor
        self.register_buffer("offset", torch.ones(1))

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.tanh(self.hidden(self.embed(tokens))))
        return scores * self.offset


def _images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def _teleported(model: nn.Module, x: Tensor, mode: str, norm_stats: str = "fixed") -> TeleportedModule:
    plan = ft.plan(model, x, mode=mode, norm_stats=norm_stats)
    return plan.rewrite(plan.sample(0.8, "inter", seed=1)).eval()


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_round_trip_is_bitwise(name: str, mode: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"img_size": 32} if name == "test_vit" else {}
    model, x = ft.randomize(timm.create_model(name, **settings)).eval(), _images()
    network = _teleported(model, x, mode, "rescaled")
    files = ft.save(tmp_path / "net", network, name, (3, 32, 32))
    assert [f.name for f in files] == ["net.safetensors", "net.cob.safetensors", "net.json"]
    loaded = ft.load(tmp_path / "net.safetensors")
    assert not loaded.training
    assert torch.equal(loaded(x), network(x))
    assert ft.verify(model, loaded, x).passed  # it also remembers its plan


def test_weights_mode_fits_the_original_class(tmp_path: Path) -> None:
    model, x = ft.randomize(timm.create_model("test_resnet")).eval(), _images()
    network = _teleported(model, x, "weights")
    weights = ft.save(tmp_path / "net.safetensors", network, "test_resnet")[0]
    fresh = timm.create_model("test_resnet").eval()
    fresh.load_state_dict(read_tensors(weights)[0], strict=True)
    assert torch.equal(fresh(x), network(x))


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_tied_weights_and_a_model_of_the_callers_own(mode: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, tokens = Tied().double().eval(), torch.tensor([[1, 2, 10], [3, 4, 5]])
    network = _teleported(model, tokens, mode)
    ft.save(tmp_path / "net", network, "somewhere/tied.py:make")
    with pytest.raises(ft.CheckpointError, match="pass model="):
        ft.load(tmp_path / "net")
    caller = Tied()
    before = caller.embed.weight.clone()
    loaded = ft.load(tmp_path / "net", caller)
    assert torch.equal(loaded(tokens), network(tokens))
    assert loaded.head.weight is loaded.embed.weight
    assert torch.equal(caller.embed.weight, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_number_format_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    model = ft.randomize(timm.create_model("test_resnet")).to(dtype).eval()
    x = _images().to(dtype)
    network = _teleported(model, x, "full")
    ft.save(tmp_path / "net", network, "test_resnet")
    assert torch.equal(ft.load(tmp_path / "net")(x), network(x))


def test_files_of_before_state_dicts_held_cobs(tmp_path: Path) -> None:
    """Format 1: the original's keys alone, and no word of a format; the operations come from the CoB."""
    model, x = ft.randomize(timm.create_model("test_resnet")).eval(), _images()
    network = _teleported(model, x, "full")
    weights, _, description = ft.save(tmp_path / "net", network, "test_resnet")
    tensors, marks = read_tensors(weights)
    write_tensors(weights, {key: tensors[key] for key in model.state_dict()}, marks)
    facts = json.loads(description.read_text())
    with pytest.raises(ft.CheckpointError, match="Missing key"):
        ft.load(tmp_path / "net")  # a newer file that lost them
    del facts["format"], facts["extra_state"]
    description.write_text(json.dumps(facts))
    loaded = ft.load(tmp_path / "net")
    assert len(network.state_dict()) > len(model.state_dict())
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert torch.equal(loaded(x), network(x))
    description.write_text(json.dumps(facts | {"format": 3}))
    with pytest.raises(ft.CheckpointError, match="format 3"):
        ft.load(tmp_path / "net")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model, x = timm.create_model("test_resnet").eval(), _images()
    ft.save(tmp_path / "net", _teleported(model, x, "full"), "test_resnet")
    return tmp_path / "net"


@pytest.mark.parametrize("suffix", [".safetensors", ".cob.safetensors", ".json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage", "empty"])
def test_damaged_files(saved: Path, suffix: str, damage: str) -> None:
    file = saved.with_name("net" + suffix)
    if damage == "missing":
        file.unlink()
    else:
        data = file.read_bytes()
        file.write_bytes({"truncated": data[: len(data) // 2], "garbage": b"\x00\xff" * 99, "empty": b""}[damage])
    with pytest.raises(ft.CheckpointError, match="net"):
        ft.load(saved)


def test_files_of_different_networks(saved: Path) -> None:
    model, x = timm.create_model("test_resnet").eval(), _images()
    plan = ft.plan(model, x)
    plan.sample(seed=5).save(saved.with_name("net.cob.safetensors"))
    with pytest.raises(ft.CheckpointError, match="different networks"):
        ft.load(saved)


def test_another_model(saved: Path) -> None:
    with pytest.raises(ft.CheckpointError, match="another model"):
        ft.load(saved, timm.create_model("resnet10t"))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "else"},
        {"mode": 3},
        {"model": "no_such_model"},
        {"dtype": "float7"},
        {"fingerprint": "0"},
        {"inputs": [1]},
    ],
    ids=lambda c: next(iter(c)),
)
def test_a_foreign_description(saved: Path, change: dict[str, object]) -> None:
    file = saved.with_name("net.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ft.CheckpointError):
        ft.load(saved)


def test_a_description_never_runs_code(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    file = saved.with_name("net.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": f"{tmp_path}/evil.py:make"}))
    with pytest.raises(ft.CheckpointError, match="pass model="):
        ft.load(saved)


def test_only_emitted_networks_are_saved(tmp_path: Path) -> None:
    with pytest.raises(ft.InputError, match=r"plan\.rewrite"):
        ft.save(tmp_path / "net", nn.Linear(2, 2), "linear")  # type: ignore[arg-type]


def test_nothing_is_left_behind_where_it_cannot_write(saved: Path, tmp_path: Path) -> None:
    network = ft.load(saved)
    with pytest.raises(ft.CheckpointError, match="no folder"):
        ft.save(tmp_path / "no" / "where", network, "test_resnet")
    folder = tmp_path / "other"
    (folder / "x.json").mkdir(parents=True)
    with pytest.raises(ft.CheckpointError, match="is a folder"):
        ft.save(folder / "x", network, "test_resnet")
    assert [f.name for f in folder.iterdir()] == ["x.json"]


def test_a_failed_write_is_taken_back(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise ft.CheckpointError("cannot write: the disk is full")

    network = ft.load(saved)
    monkeypatch.setattr("fxteleport.io.description.write_text", full_disk)
    with pytest.raises(ft.CheckpointError, match="full"):
        ft.save(tmp_path / "second", network, "test_resnet")
    assert not list(tmp_path.glob("*second*"))
