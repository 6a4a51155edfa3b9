"""Data sets: small local files in the real formats."""

from __future__ import annotations

import csv
import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fxteleport as ft
from fxteleport.tools.cli import app
from fxteleport.tools.experiments import data

N = 20


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N, *shape), dtype=np.uint8)


def write_mnist(root: Path) -> np.ndarray:
    """The IDX format, gzipped as it is distributed, and not."""
    images, labels = random_images(28, 28), (np.arange(N) % 10).astype(np.uint8)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        pictures = struct.pack(">iiii", 2051, N, 28, 28) + images.tobytes()
        names = struct.pack(">ii", 2049, N) + labels.tobytes()
        for name, content in ((f"{part}-images-idx3-ubyte", pictures), (f"{part}-labels-idx1-ubyte", names)):
            (raw / name).write_bytes(content)
            (raw / f"{name}.gz").write_bytes(gzip.compress(content))
    return images


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> np.ndarray:
    """The python pickles; torchvision's checksums, of the real files, are replaced by those of these."""
    import hashlib

    from torchvision import datasets

    kind = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    images = random_images(3, 32, 32)
    key = "labels" if classes == 10 else "fine_labels"
    sums = {}

    def write(name: str, content: object) -> None:
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()

    for name, _ in kind.train_list + kind.test_list:
        write(name, {"data": images.reshape(N, -1), key: [i % classes for i in range(N)]})
    write(kind.meta["filename"], {kind.meta["key"]: [str(i) for i in range(classes)]})
    monkeypatch.setattr(kind, "train_list", [[n, sums[n]] for n, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[n, sums[n]] for n, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": sums[kind.meta["filename"]]})
    return images


def check_normalised(found: data.Data) -> None:
    assert found.x.dtype == torch.float32 and found.y.dtype == torch.int64
    assert torch.allclose(found.x.mean((0, 2, 3)), torch.zeros(found.x.shape[1]), atol=1e-4)
    assert torch.allclose(found.x.std((0, 2, 3)), torch.ones(found.x.shape[1]), atol=1e-3)


def train_on(name: str, root: Path) -> None:
    """The command reads the same files, and trains on them."""
    options = ["training", "--preset", "smoke", "--runs", "1", "--jobs", "1", "--data", name, "--data-root", str(root)]
    out = root.with_name(f"{root.name}-results")
    done = CliRunner().invoke(app, ["paper", *options, "-o", str(out)])
    assert done.exit_code == 0, done.output
    with open(out / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert {r["data"] for r in rows} == {name} and {r["epoch"] for r in rows} == {"0", "1", "2"}
    assert len({r["test_loss"] for r in rows}) > 3


def test_digits() -> None:
    pytest.importorskip("sklearn")
    found = data.load("digits")
    assert found.shape == (1, 8, 8) and found.classes == 10
    assert len(found.x) + len(found.test_x) == 1797
    check_normalised(found)
    assert data.load("digits", size=16, limit=50).x.shape == (50, 1, 16, 16)


def test_random(tmp_path: Path) -> None:
    found = data.load("random")
    assert found.shape == (3, 32, 32) and set(found.y.tolist()) == set(range(10))
    train_on("random", tmp_path)


def test_mnist(tmp_path: Path) -> None:
    images = write_mnist(tmp_path)
    found = data.load("mnist", str(tmp_path))
    assert found.shape == (1, 28, 28) and found.y.tolist() == [i % 10 for i in range(N)]
    check_normalised(found)
    x = torch.from_numpy(images).float()
    assert torch.allclose(found.x[:, 0], (x - x.mean()) / x.std(), atol=1e-4)
    train_on("mnist", tmp_path)


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    write_cifar(tmp_path, monkeypatch, classes)
    found = data.load(f"cifar{classes}", str(tmp_path))
    assert found.shape == (3, 32, 32) and len(found.test_x) == N
    check_normalised(found)
    train_on(f"cifar{classes}", tmp_path)


@pytest.mark.parametrize("split", [True, False])
def test_a_folder_of_images(tmp_path: Path, split: bool) -> None:
    from PIL import Image

    for part in ("train", "test") if split else (".",):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            for i, image in enumerate(random_images(40, 50, 3)[:5]):
                Image.fromarray(image).save(tmp_path / part / label / f"{i}.png")
    found = data.load("folder", str(tmp_path))
    assert found.shape == (3, 32, 32) and found.classes == 2
    assert (len(found.x), len(found.test_x)) == ((10, 10) if split else (8, 2))
    train_on("folder", tmp_path)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def no_network(self: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", no_network)
    with pytest.raises(ft.InputError, match="cannot be downloaded"):
        data.load("cifar10", str(tmp_path))
    with pytest.raises(ft.InputError, match="folder of images"):
        data.load("folder", str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ft.InputError, match="no folder of images"):
        data.load("folder", str(tmp_path / "empty"))
    with pytest.raises(ft.InputError, match="no data set 'imagenet'"):
        data.load("imagenet")
