"""Memory: the peak of a call, the free memory, and a limit for a process, by Linux's /proc."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def peak_bytes(run: Callable[[], T]) -> tuple[T, int]:
    """A call's result, and the rise of the process's peak resident memory; 0 where that is unknown."""
    refs = Path("/proc/self/clear_refs")
    if not refs.exists():
        return run(), 0
    refs.write_text("5")  # the peak starts from here
    before = _resident("VmRSS")
    result = run()
    return result, max(0, _resident("VmHWM") - before)


def limit_memory(size: int) -> None:
    """Let this process allocate at most `size` bytes (not on Windows); more is an error in it alone."""
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size, hard))


def free_memory() -> float:
    """The machine's free memory in bytes; infinite where that is unknown."""
    path = Path("/proc/meminfo")
    return _field(path, "MemAvailable") if path.exists() else math.inf


def out_of_memory(error: BaseException) -> bool:
    """True for an out-of-memory error, of which torch has several, and oneDNN a bare RuntimeError."""
    said = ("allocate memory", "out of memory", "could not create a primitive")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


def _resident(field: str) -> int:
    return _field(Path("/proc/self/status"), field)


def _field(path: Path, name: str) -> int:
    line: Any = next(row for row in path.read_text().splitlines() if row.startswith(name))
    return int(line.split()[1]) * 1024
