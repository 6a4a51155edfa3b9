"""Data sets as tensors: images normalised by the training images' mean and deviation, and labels.

`digits` ships with scikit-learn (1797 real images of 8 x 8); `mnist`, `cifar10` and `cifar100` are read, and where
there is a network downloaded, by torchvision; `random` is noise with random labels; `folder` is a folder of images,
a folder for each class.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fxteleport.passes.errors import InputError

_HELD_OUT = 5  # one image in five, where a data set has no test part of its own


@dataclass(frozen=True)
class Data:
    """Images float32 [n, channels, height, width] and labels int64 [n], for training and for testing."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        c, h, w = self.x.shape[1:]
        return int(c), int(h), int(w)


@functools.lru_cache(maxsize=4)
def load(name: str, root: str = "data", size: int | None = None, limit: int | None = None) -> Data:
    """A data set by name.

    Args:
        name: one of `NAMES`.
        root: the folder that holds the files (for `folder`: the images).
        size: height and width to resize to; None keeps the data set's own.
        limit: keep this many training images (and as many test images).

    Raises:
        InputError: an unknown name, or files that are missing and cannot be downloaded.
    """
    if name not in NAMES:
        raise InputError(f"there is no data set '{name}': choose one of {', '.join(NAMES)}")
    x, y, test_x, test_y = NAMES[name](root)
    x, y, test_x, test_y = (t if limit is None else t[:limit] for t in (x, y, test_x, test_y))
    if size is not None and size != x.shape[-1]:
        x, test_x = (F.interpolate(t, size=(size, size), mode="bilinear", antialias=True) for t in (x, test_x))
    mean, deviation = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True).clamp_min(1e-6)
    classes = int(max(int(y.max()), int(test_y.max()))) + 1
    return Data((x - mean) / deviation, y, (test_x - mean) / deviation, test_y, classes)


Parts = tuple[Tensor, Tensor, Tensor, Tensor]


def _digits(root: str) -> Parts:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("the data set 'digits' is scikit-learn's: pip install \"fxteleport[experiments]\"") from None
    digits = load_digits()
    x = torch.from_numpy(digits.images).float()[:, None] / 16
    return _held_out(x, torch.from_numpy(digits.target).long())


def _random(root: str) -> Parts:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2560, 3, 32, 32, generator=generator)
    return _held_out(x, torch.randint(0, 10, (2560,), generator=generator))


def _held_out(x: Tensor, y: Tensor) -> Parts:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    cut = len(x) // _HELD_OUT
    test, train = order[:cut], order[cut:]
    return x[train], y[train], x[test], y[test]


def _torchvision(kind: str, root: str) -> Parts:
    from torchvision import datasets

    make = getattr(datasets, kind)
    parts: list[Any] = []
    for train in (True, False):
        try:
            parts.append(make(root, train=train, download=False))
        except RuntimeError:
            try:
                parts.append(make(root, train=train, download=True))
            except Exception as error:
                raise InputError(
                    f"{kind} is not in '{root}' and cannot be downloaded ({type(error).__name__}):"
                    " put its files there, or choose --data digits"
                ) from None
    tensors = []
    for part in parts:
        images = torch.from_numpy(np.asarray(part.data))
        x = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        tensors += [x.float() / 255, torch.as_tensor(part.targets).long()]
    return tensors[0], tensors[1], tensors[2], tensors[3]


def _folder(root: str) -> Parts:
    from torchvision import datasets, transforms

    if not Path(root).is_dir():
        raise InputError(f"--data folder needs --data-root with a folder of images, a folder for each class: '{root}'")
    change = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])
    try:
        if (Path(root) / "train").is_dir() and (Path(root) / "test").is_dir():
            train, test = (_stacked(datasets.ImageFolder(str(Path(root) / p), change)) for p in ("train", "test"))
            return *train, *test
        return _held_out(*_stacked(datasets.ImageFolder(root, change)))
    except FileNotFoundError as error:
        raise InputError(f"'{root}' is no folder of images: {error}") from None


def _stacked(images: Any) -> tuple[Tensor, Tensor]:
    pairs = [images[i] for i in range(len(images))]
    return torch.stack([x for x, _ in pairs]), torch.tensor([y for _, y in pairs])


NAMES: dict[str, Callable[[str], Parts]] = {
    "digits": _digits,
    "mnist": functools.partial(_torchvision, "MNIST"),
    "cifar10": functools.partial(_torchvision, "CIFAR10"),
    "cifar100": functools.partial(_torchvision, "CIFAR100"),
    "random": _random,
    "folder": _folder,
}
