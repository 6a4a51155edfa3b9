"""Atomic files: written under a temporary name in the same folder and then moved, so that no file is half written.

Only a regular file, or a new one, is replaced. Anything else that a path names (a FIFO, a device, the pipe of a process
substitution, standard output) gets the bytes when they are complete. A symbolic link stays, and its target is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

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
    """Let `save` write to a temporary name, and move the file to `path`, or copy its bytes where `path` is no file.

    Raises:
        CheckpointError: the path cannot be written.
    """
    replaced = require_writable(path)
    temporary = ""
    try:
        folder = None if replaced is None else replaced.parent
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{Path(path).name}.")
        os.close(handle)
        save(temporary)
        if replaced is None:
            with open(temporary, "rb") as source, _opened(path) as target:
                shutil.copyfileobj(source, target)
        else:
            os.chmod(temporary, _mode(replaced))
            os.replace(temporary, replaced)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot write '{path}': {error.strerror or error}") from None
    except Exception as error:
        raise CheckpointError(f"cannot write '{path}': {error}") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def require_writable(path: str | Path) -> Path | None:
    """Check that a path can be written, before the work whose result goes there; nothing is written yet.

    Returns:
        The file to replace, links followed; None where the path names something else, which is written in place.

    Raises:
        CheckpointError: it is a folder, its folder does not exist, or it may not be written.
    """
    try:
        there = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        there = None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot write '{path}': {getattr(error, 'strerror', None) or error}") from None
    if there is not None and stat.S_ISDIR(there.st_mode):
        raise CheckpointError(f"cannot write '{path}': it is a folder")
    if there is not None and not os.access(path, os.W_OK):
        raise CheckpointError(f"cannot write '{path}': permission denied")
    if there is not None and (not stat.S_ISREG(there.st_mode) or _own_stream(there) is not None):
        return None
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise CheckpointError(f"cannot write '{path}': its folder does not exist")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise CheckpointError(f"cannot write '{path}': its folder may not be written")
    return target


def _own_stream(there: os.stat_result) -> int | None:
    """The number of standard output or standard error, if it is this file, which must then not be replaced."""
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(there, os.fstat(number)):
                return number
    return None


def _opened(path: str | Path) -> BinaryIO:
    """Open what a path names for writing in place; a stream of this process is written at its position."""
    number = _own_stream(os.stat(path))
    if number is None:
        return open(path, "wb")
    sys.stdout.flush()
    sys.stderr.flush()
    return os.fdopen(os.dup(number), "wb")


def _mode(place: Path) -> int:
    """The permissions of a file that is replaced, or those of a new one."""
    if place.exists():
        return stat.S_IMODE(place.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
