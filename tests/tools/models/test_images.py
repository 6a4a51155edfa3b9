"""Images: pictures become the inputs that the model's publisher would make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import fxteleport as ft
from fxteleport.tools.models.load import load
from fxteleport.tools.models.request import Request


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    (tmp_path / "deep").mkdir()
    for name in ("b.png", "a.jpg", "deep/c.PNG"):
        Image.fromarray(random.integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_timms_own_transforms(folder: Path) -> None:
    found = load("test_resnet", Request(images=folder))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(found.model), is_training=False)
    expected = [transform(Image.open(folder / name).convert("RGB")) for name in ("a.jpg", "b.png", "deep/c.PNG")]
    assert torch.equal(found.args[0], torch.stack(expected))
    assert found.batch == 3


def test_batch_size_and_format(folder: Path) -> None:
    found = load("test_resnet", Request((3, 32, 48), images=folder, batch=2, dtype=torch.float64, channels_last=True))
    assert found.args[0].shape == (2, 3, 32, 48) and found.args[0].dtype == torch.float64
    assert found.args[0].is_contiguous(memory_format=torch.channels_last)
    assert found.model.get_parameter("layer1.0.conv1.weight").is_contiguous(memory_format=torch.channels_last)


def test_grey_pictures(folder: Path) -> None:
    assert load("test_resnet", Request((1, 32, 32), images=folder)).args[0].shape == (3, 1, 32, 32)


def test_torchvisions_own_transforms(folder: Path) -> None:
    from torchvision.models import MNASNet0_5_Weights

    found = load("torchvision/mnasnet0_5", Request(images=folder, batch=1)).args[0]
    picture = Image.open(folder / "a.jpg").convert("RGB")
    assert torch.equal(found[0], MNASNet0_5_Weights.DEFAULT.transforms()(picture))
    small = load("torchvision/mnasnet0_5", Request((3, 64, 64), images=folder)).args[0]
    assert small.shape == (3, 3, 64, 64)


def test_wrong_pictures(folder: Path, tmp_path: Path) -> None:
    def loading(images: Path, spec: str = "test_resnet", size: tuple[int, ...] | None = (3, 32, 32)) -> None:
        load(spec, Request(size, images=images))

    with pytest.raises(ft.InputError, match="no folder"):
        loading(folder / "nowhere")
    with pytest.raises(ft.InputError, match="channels"):
        loading(folder, size=(4, 32, 32))
    (tmp_path / "nets.py").write_text("from torch import nn\ndef make(): return nn.Linear(3, 2)\n")
    with pytest.raises(ft.InputError, match="takes pictures"):
        loading(folder, f"{tmp_path}/nets.py:make", (3,))
    (folder / "0.png").write_bytes(b"garbage")
    with pytest.raises(ft.InputError, match="not an image that can be read"):
        loading(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ft.InputError, match="holds no picture"):
        loading(tmp_path / "empty")
