"""Checkpoints streamed from disk to disk: bit for bit what `apply_` does in memory, or nothing at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.tools.models.memory import peak_bytes

INDEX = "model.safetensors.index.json"
X = torch.zeros(2, 5, dtype=torch.int64)


class Net(nn.Module):
    """A tied embedding, attention, a residual; a buffer that no checkpoint holds and a scalar parameter."""

    position: Tensor

    def __init__(self, width: int = 12, words: int = 20) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.register_buffer("position", torch.arange(5), persistent=False)
        self.places = nn.Embedding(5, width)
        self.attention = nn.MultiheadAttention(width, 3, batch_first=True)
        self.up, self.down = nn.Linear(width, 30), nn.Linear(30, width)
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words) + self.places(self.position)
        x = x + self.attention(x, x, x)[0]
        x = x + self.down(torch.relu(self.up(x))) * self.gain
        return self.head(self.norm(x))


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    return ft.randomize(Net().eval()).to(dtype)


def tensors(model: nn.Module, tied: bool = False) -> dict[str, Tensor]:
    """A state dict as Hugging Face saves it: a tied weight once."""
    return {n: t.clone() for n, t in model.state_dict().items() if tied or n != "head.weight"}


def sharded(folder: Path, state: dict[str, Tensor]) -> Path:
    folder.mkdir()
    names = list(state)
    parts = {f"model-0000{i + 1}-of-00003.safetensors": names[i::3] for i in range(3)}
    for file, own in parts.items():
        save_file({n: state[n] for n in own}, folder / file, {"format": "pt", "by": "a test"})
    places = {n: file for file, own in parts.items() for n in own}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return folder


def loaded(folder: Path) -> dict[str, Tensor]:
    return {n: t for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()}


def planned() -> ft.Plan:
    with ft.without_weights():
        model = Net().eval()
    return ft.plan(model, X, mode="weights")


@pytest.mark.parametrize("run", [1 << 23, 200, 1], ids=["whole", "runs", "rows"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_equals_apply_in_memory(tmp_path: Path, dtype: torch.dtype, run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["fxteleport.io.stream"], "_RUN", run)
    model = network(dtype)
    source = sharded(tmp_path / "source", tensors(model))
    plan = planned()
    cob = plan.sample(0.9, "inter", seed=1)
    told: list[int] = []
    files = ft.stream(plan, cob, source, tmp_path / "moved", told.append)
    assert sorted(files) == sorted((tmp_path / "moved").iterdir())
    assert files[-1].name == INDEX
    plan.apply_(cob, model)  # the plan of the model without weights is this model's too
    found, expected = loaded(tmp_path / "moved"), tensors(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) for n in expected)
    assert sum(told) == sum(t.numel() * t.element_size() for t in expected.values())
    assert any(not torch.equal(found[n], t) for n, t in loaded(source).items())


def test_the_layout_stays(tmp_path: Path) -> None:
    source = sharded(tmp_path / "source", tensors(network()))
    plan = planned()
    ft.stream(plan, plan.sample(seed=1), source, tmp_path / "moved")
    assert (tmp_path / "moved" / INDEX).read_bytes() == (source / INDEX).read_bytes()
    for file in source.glob("*.safetensors"):
        with safe_open(file, "pt") as one, safe_open(tmp_path / "moved" / file.name, "pt") as other:
            assert list(one.keys()) == list(other.keys())
            assert one.metadata() == other.metadata() == {"format": "pt", "by": "a test"}


def test_the_inverse_undoes_it(tmp_path: Path) -> None:
    source = sharded(tmp_path / "source", tensors(network()))
    plan = planned()
    cob = plan.sample(0.9, "inter", exact=True, seed=1)
    ft.stream(plan, cob, source, tmp_path / "moved")
    ft.stream(plan, cob.inverse(), tmp_path / "moved", tmp_path / "back")
    for file in source.iterdir():
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()
        if file.suffix == ".safetensors":
            assert (tmp_path / "moved" / file.name).read_bytes() != file.read_bytes()


def test_the_function_stays(tmp_path: Path) -> None:
    model, other = network(torch.float64), network(torch.float64)
    save_file(tensors(model), tmp_path / "net.safetensors")
    plan = planned()
    ft.stream(plan, plan.sample(0.9, exact=True, seed=1), tmp_path / "net.safetensors", tmp_path / "moved.safetensors")
    other.load_state_dict(load_file(tmp_path / "moved.safetensors"), strict=False)
    words = torch.randint(0, 20, (2, 5))
    assert torch.equal(model(words), other(words))
    assert not torch.equal(model.up.weight, other.up.weight)


@pytest.mark.parametrize("names", [{"head.weight"}, {"embed.weight"}, {"head.weight", "embed.weight"}])
def test_tied_weights_under_any_of_their_names(tmp_path: Path, names: set[str]) -> None:
    model = network()
    state = {
        n: t for n, t in tensors(model, tied=True).items() if n in names or n.split(".")[0] not in ("embed", "head")
    }
    save_file(state, tmp_path / "net.safetensors")
    plan = ft.plan(model, X, mode="weights")
    cob = plan.sample(0.9, seed=1)
    ft.stream(plan, cob, tmp_path / "net.safetensors", tmp_path / "moved.safetensors")
    plan.apply_(cob, model)
    expected = tensors(model, tied=True)
    found = load_file(tmp_path / "moved.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(t, expected[n]) for n, t in found.items())


def missing(state: dict[str, Tensor]) -> None:
    del state["up.bias"]


def missing_tied(state: dict[str, Tensor]) -> None:
    del state["embed.weight"]


def unknown(state: dict[str, Tensor]) -> None:
    state["another"] = torch.zeros(2)


def other_shape(state: dict[str, Tensor]) -> None:
    state["up.weight"] = torch.zeros(30, 11)


def other_format(state: dict[str, Tensor]) -> None:
    state["up.weight"] = state["up.weight"].to(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (missing, r"1 missing \(the first: 'up.bias'\)"),
        (missing_tied, "missing .the first: 'embed.weight'"),
        (unknown, r"1 unknown to the model \(the first: 'another'\)"),
        (other_shape, r"'up.weight' \(30, 11\), planned as \(30, 12\)"),
        (other_format, "'up.weight' F8_E4M3"),
    ],
)
def test_what_does_not_fit_is_found_before_anything_is_written(tmp_path: Path, harm: object, message: str) -> None:
    state = tensors(network())
    harm(state)  # type: ignore[operator]
    source = sharded(tmp_path / "source", state)
    plan = planned()
    with pytest.raises(ft.CheckpointError, match=message):
        ft.stream(plan, plan.sample(seed=1), source, tmp_path / "moved")
    assert not (tmp_path / "moved").exists()


def test_the_source_is_never_written(tmp_path: Path) -> None:
    source = sharded(tmp_path / "source", tensors(network()))
    before = {f.name: f.read_bytes() for f in source.iterdir()}
    (tmp_path / "link").symlink_to(source)
    plan = planned()
    for output in (source, tmp_path / "link", tmp_path / "link" / ".." / "source"):
        with pytest.raises(ft.InputError, match="is the source"):
            ft.stream(plan, plan.sample(seed=1), source, output)
    one = next(source.glob("*.safetensors"))
    save_file(tensors(network()), tmp_path / "whole.safetensors")
    with pytest.raises(ft.InputError, match="is the source"):
        ft.stream(plan, plan.sample(seed=1), tmp_path / "whole.safetensors", tmp_path / "whole.safetensors")
    assert one.exists()
    assert {f.name: f.read_bytes() for f in source.iterdir()} == before


def test_wrong_outputs_and_modes(tmp_path: Path) -> None:
    source = sharded(tmp_path / "source", tensors(network()))
    save_file(tensors(network()), tmp_path / "whole.safetensors")
    plan = planned()
    cob = plan.sample(seed=1)
    (tmp_path / "file").write_text("")
    for one, output, message in (
        (source, tmp_path / "file", "is a file: the source is a folder"),
        (source, tmp_path / "no" / "folder", "there is no folder"),
        (tmp_path / "whole.safetensors", source, "is a folder: the source is one file"),
        (tmp_path / "whole.safetensors", tmp_path / "no" / "file", "there is no folder"),
    ):
        with pytest.raises(ft.CheckpointError, match=message):
            ft.stream(plan, cob, one, output)
    full = ft.plan(network(), X)
    with pytest.raises(ft.InputError, match="weights"):
        ft.stream(full, full.sample(seed=0), source, tmp_path / "moved")
    with pytest.raises(ft.CobError, match="another plan"):
        ft.stream(plan, full.sample(seed=0), source, tmp_path / "moved")


def test_a_full_disk_is_found_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from types import SimpleNamespace

    source = sharded(tmp_path / "source", tensors(network()))
    plan = planned()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(ft.CheckpointError, match=r"0\.0 GB left"):
        ft.stream(plan, plan.sample(seed=1), source, tmp_path / "moved")
    assert not (tmp_path / "moved").exists()


def test_cut_short_it_leaves_no_index_and_nothing_half_written(tmp_path: Path) -> None:
    source = sharded(tmp_path / "source", tensors(network()))
    plan = planned()
    ft.stream(plan, plan.sample(seed=1), source, tmp_path / "moved")
    told: list[int] = []

    def stop(size: int) -> None:
        told.append(size)
        if len(told) > 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ft.stream(plan, plan.sample(seed=2), source, tmp_path / "moved", stop)
    assert {f.name for f in (tmp_path / "moved").iterdir()} == {f.name for f in source.iterdir()} - {INDEX}


def test_a_tensor_that_does_not_move_is_copied_in_any_format(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 40, bias=False), nn.Linear(40, 2, bias=False)
            self.register_buffer("mask", torch.rand(7, 3) > 0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)))

    model = Masked().eval()
    state = {n: t.clone() for n, t in model.state_dict().items()}
    save_file(state, tmp_path / "net.safetensors")
    plan = ft.plan(model, torch.zeros(1, 5), mode="weights")
    cob = plan.sample(seed=0)
    ft.stream(plan, cob, tmp_path / "net.safetensors", tmp_path / "moved.safetensors")
    found, expected = load_file(tmp_path / "moved.safetensors"), plan.apply_(cob).state_dict()
    assert torch.equal(found["mask"], state["mask"])
    assert all(torch.equal(t, expected[n]) for n, t in found.items())


def test_memory_is_that_of_a_run(tmp_path: Path) -> None:
    """A weight of 128 MB goes through a buffer of 8."""
    model = nn.Sequential(nn.Linear(64, 1 << 19, bias=False), nn.ReLU(), nn.Linear(1 << 19, 8, bias=False)).eval()
    x = torch.zeros(1, 64)
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    plan = ft.plan(model.to("meta"), x, mode="weights")
    cob = plan.sample(exact=True, seed=0)
    ft.stream(plan, cob, tmp_path / "net.safetensors", tmp_path / "once.safetensors")
    output = tmp_path / "again.safetensors"
    assert peak_bytes(lambda: ft.stream(plan, cob, tmp_path / "net.safetensors", output))[1] < 70e6
