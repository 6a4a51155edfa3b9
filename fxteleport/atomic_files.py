"""Files: written beside their place and moved in, so that nothing is ever half written."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from fxteleport.passes.errors import CheckpointError


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


def read_json(path: str | Path) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        CheckpointError: it is missing or corrupt.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"there is no file '{path}'") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is not readable JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"'{path}' holds no JSON object")
    return content


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
