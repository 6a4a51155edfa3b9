"""Checkpoint layouts by their headers, and everything that can be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import fxteleport as ft
from fxteleport.io.safetensors_layout import read_layout

TENSORS = {"a": torch.zeros(3, 2), "b": torch.zeros((), dtype=torch.bfloat16), "c": torch.zeros(0, 4)}
INDEX = "model.safetensors.index.json"


def two_shards(folder: Path) -> Path:
    save_file({"a": TENSORS["a"]}, folder / "one.safetensors", {"format": "pt"})
    save_file({"b": TENSORS["b"], "c": TENSORS["c"]}, folder / "two.safetensors", {"format": "pt"})
    places = {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 26}, "weight_map": places}))
    return folder


def test_headers(tmp_path: Path) -> None:
    layout = read_layout(two_shards(tmp_path))
    assert layout.index == tmp_path / INDEX
    found = {e.name: (e.dtype, e.shape, e.size) for e in layout.entries()}
    assert found == {"a": ("F32", (3, 2), 24), "b": ("BF16", (), 2), "c": ("F32", (0, 4), 0)}
    assert layout.size == sum(f.stat().st_size for f in tmp_path.glob("*.safetensors"))
    assert {e.name: e.row for e in layout.entries()} == {"a": 8, "b": 2, "c": 0}


def test_one_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    for source in (tmp_path, tmp_path / "model.safetensors"):
        layout = read_layout(source)
        assert layout.index is None
        assert {e.name for e in layout.entries()} == set(TENSORS)
        assert layout.shards[0].size == layout.shards[0].path.stat().st_size


def rewritten(folder: Path, **places: str) -> None:
    facts = json.loads((folder / INDEX).read_text())
    facts["weight_map"] |= places
    (folder / INDEX).write_text(json.dumps(facts))


def no_shard(folder: Path) -> None:
    (folder / "two.safetensors").unlink()


def short_shard(folder: Path) -> None:
    shard = folder / "one.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])


def another_index(folder: Path) -> None:
    (folder / f"other.{INDEX}").write_text("{}")


def no_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def empty_index(folder: Path) -> None:
    (folder / INDEX).write_text("{}")


def elsewhere(folder: Path) -> None:
    rewritten(folder, a="../one.safetensors")


def wrong_place(folder: Path) -> None:
    rewritten(folder, a="two.safetensors")


def not_in_any(folder: Path) -> None:
    rewritten(folder, d="two.safetensors")


def not_named(folder: Path) -> None:
    save_file({"a": TENSORS["a"], "z": torch.zeros(2)}, folder / "one.safetensors")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (no_shard, "there is no file '.*two.safetensors'"),
        (short_shard, "one.safetensors' is not a readable safetensors file"),
        (another_index, "holds 2 checkpoints"),
        (no_index, "holds neither"),
        (empty_index, "has no weight_map"),
        (elsewhere, "not in its own folder"),
        (wrong_place, "names the tensor 'a' in two.safetensors, which does not hold it"),
        (not_in_any, "names the tensor 'd' in two.safetensors, which does not"),
        (not_named, "one.safetensors holds the tensor 'z', which .* does not name"),
    ],
)
def test_harm(tmp_path: Path, harm: object, message: str) -> None:
    harm(two_shards(tmp_path))  # type: ignore[operator]
    with pytest.raises(ft.CheckpointError, match=message):
        read_layout(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ft.CheckpointError, match="there is no checkpoint"):
        read_layout(tmp_path / "missing")
