"""Images: a folder of pictures as inputs of a network, prepared the way its publisher does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.errors import InputError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def files(folder: Path, count: int) -> list[Path]:
    """The first pictures in a folder and below it, by name.

    Raises:
        InputError: it is no folder, or it holds no picture.
    """
    if not folder.is_dir():
        raise InputError(f"--images: there is no folder '{folder}'")
    pictures = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not pictures:
        raise InputError(f"--images: '{folder}' holds no picture ({', '.join(sorted(_SUFFIXES))})")
    return pictures[:count]


def batch_of(paths: list[Path], model: nn.Module, spec: str, shape: tuple[int, ...]) -> Tensor:
    """Pictures as one batch of the given shape [n, C, H, W], with timm's own transforms for the model.

    torchvision's networks get those that their published weights come with, if the size is theirs.

    Raises:
        InputError: the network takes no pictures, or a file cannot be read as one.
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(f"--images needs a network that takes pictures of 1 or 3 channels; '{spec}' takes {shape}")
    transform = _torchvision(spec, shape) or _timm(model, shape)
    return torch.stack([transform(read_picture(path, shape[0])) for path in paths])


def read_picture(path: Path, channels: int) -> Any:
    """A picture in grey (1 channel) or in colour.

    Raises:
        InputError: it is missing, or cannot be read as a picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.convert("L" if channels == 1 else "RGB")
    except FileNotFoundError:
        raise InputError(f"there is no image '{path}'") from None
    except Exception as error:  # each of Pillow's formats raises its own
        raise InputError(f"'{path}' is not an image that can be read: {error}") from None


def _timm(model: nn.Module, shape: tuple[int, ...]) -> Callable[[Any], Tensor]:
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    settings = resolve_model_data_config(model, args={"input_size": shape})
    if shape[0] == 1:
        settings |= {key: (sum(settings[key]) / len(settings[key]),) for key in ("mean", "std")}
    transform: Callable[[Any], Tensor] = create_transform(**settings, is_training=False)
    return transform


def _torchvision(spec: str, shape: tuple[int, ...]) -> Callable[[Any], Tensor] | None:
    if not spec.startswith("torchvision/"):
        return None
    from torchvision.models import get_model_weights

    published = next(iter(get_model_weights(spec.removeprefix("torchvision/"))), None)
    if published is None:
        return None
    transform: Callable[[Any], Tensor] = published.transforms()
    size = getattr(transform, "crop_size", None)
    return transform if size in ([*shape[1:]], [shape[-1]] * (shape[-1] == shape[-2])) else None
