"""Files: written beside their place and moved in, so that nothing is ever half written.

Only a regular file, or one that is not there yet, is replaced. Whatever else a path names (a FIFO, a device, the pipe
of a process substitution, standard output) keeps its place and gets the bytes when they are complete. A symbolic link
stays, and what it points to is written.
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
    """Let `save` write to a temporary name, and move the file into its place, or its bytes into what is there.

    Raises:
        CheckpointError: the path cannot be written.
    """
    place = require_writable(path)
    temporary = ""
    try:
        folder = None if place is None else place.parent
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{Path(path).name}.")
        os.close(handle)
        save(temporary)
        if place is None:
            with open(temporary, "rb") as source, _opened(path) as target:
                shutil.copyfileobj(source, target)
        else:
            os.chmod(temporary, _mode(place))
            os.replace(temporary, place)
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
    """Look whether a path can be written, before the work whose result goes there; nothing is written yet.

    Returns:
        The file to replace, links followed; None where something else is there, which is written in place.

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
    place = Path(os.path.realpath(path))
    if not place.parent.is_dir():
        raise CheckpointError(f"cannot write '{path}': its folder does not exist")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise CheckpointError(f"cannot write '{path}': its folder may not be written")
    return place


def _own_stream(there: os.stat_result) -> int | None:
    """The number of standard output or standard error, where they are this file: it is open, and so not replaced."""
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(there, os.fstat(number)):
                return number
    return None


def _opened(path: str | Path) -> BinaryIO:
    """What is at a path, to be written in place; a stream of this process goes on where it is."""
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
