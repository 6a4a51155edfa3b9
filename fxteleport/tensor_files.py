"""Tensors in files: written as safetensors; read from safetensors, or from `torch.save` files without running code."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxteleport.atomic_files import write_file
from fxteleport.passes.errors import CheckpointError


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and string metadata as safetensors.

    Raises:
        CheckpointError: the path cannot be written.
    """
    from safetensors.torch import save_file

    held = {name: t.detach().contiguous() for name, t in tensors.items()}
    write_file(path, lambda temporary: save_file(held, temporary, dict(metadata)))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors and its metadata.

    Raises:
        CheckpointError: it is missing or corrupt.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"there is no file '{path}'") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' is not a readable safetensors file: {error}") from None


def read_pickled(path: str | Path) -> Any:
    """Read a file of `torch.save`: tensors and plain values only, mapped into memory rather than copied.

    No code in it runs, and sizes are checked against the file's length: torch does not compress its archives.

    Raises:
        CheckpointError: it is corrupt, has anything else in it, or is older than torch 1.6.
    """
    if not _is_archive(path):
        raise CheckpointError(
            f"'{path}' is corrupt, or no archive of torch 1.6 or newer: load it where you trust it, and save its state"
            " dict again"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise CheckpointError(f"'{path}' is a compressed archive, which torch does not write")
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's script keeps its arguments in one
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    except Exception:  # pickle, zip and torch each raise their own
        raise CheckpointError(f"'{path}' is corrupt, or holds more than tensors (then save its state dict)") from None


def _is_archive(path: str | Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # `is_zipfile` accepts some corrupt archives
        return False
