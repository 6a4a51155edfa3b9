"""Files: written beside their place and moved in, so that nothing is ever half written; tensors as safetensors only."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxteleport.passes.errors import CheckpointError


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and string metadata as safetensors.

    Raises:
        CheckpointError: the path cannot be written.
    """
    from safetensors.torch import save_file

    held = {name: t.detach().contiguous() for name, t in tensors.items()}
    write_file(path, lambda temporary: save_file(held, temporary, dict(metadata)))


def write_text(path: str | Path, text: str) -> None:
    """Write a text file.

    Raises:
        CheckpointError: the path cannot be written.
    """
    write_file(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a binary file.

    Raises:
        CheckpointError: the path cannot be written.
    """
    write_file(path, lambda temporary: Path(temporary).write_bytes(data))


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
    """Read what `torch.save` wrote: tensors and plain values only, mapped into memory rather than copied.

    No code in it runs, and what it says of sizes is held against the file: torch does not compress its archives.

    Raises:
        CheckpointError: it is corrupt, holds anything else, or is older than torch 1.6.
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
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    except Exception:  # pickle, zip and torch each raise their own
        raise CheckpointError(f"'{path}' is corrupt, or holds more than tensors (then save its state dict)") from None


def _is_archive(path: str | Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # some corrupt ones it does not answer for
        return False


def read_json(path: str | Path) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        CheckpointError: it is missing or corrupt.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"there is no file '{path}'") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is not readable JSON: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"'{path}' holds no JSON object")
    return found


def write_file(path: str | Path, save: Callable[[str], object]) -> None:
    """Let `save` write to a temporary name, and move the file into its place.

    Raises:
        CheckpointError: the path cannot be written.
    """
    target = Path(path)
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        save(temporary)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot write '{path}': {error.strerror or error}") from None
    except Exception as error:
        raise CheckpointError(f"cannot write '{path}': {error}") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
