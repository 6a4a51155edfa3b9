"""Memory: what a call needs at its peak, what is free, and a limit for a process. Where Linux's /proc is."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def peak_bytes(run: Callable[[], T]) -> tuple[T, int]:
    """A call's result, and how far it raised the process's resident memory at its peak; 0 where that is not known."""
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
    """What processes may still take of the machine's memory, bytes; infinite where that is not known."""
    path = Path("/proc/meminfo")
    return _field(path, "MemAvailable") if path.exists() else math.inf


def out_of_memory(error: BaseException) -> bool:
    """True for an error that says that memory did not suffice: torch raises several, oneDNN says no more than that."""
    said = ("allocate memory", "out of memory", "could not create a primitive")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


def _resident(field: str) -> int:
    return _field(Path("/proc/self/status"), field)


def _field(path: Path, name: str) -> int:
    line: Any = next(row for row in path.read_text().splitlines() if row.startswith(name))
    return int(line.split()[1]) * 1024
