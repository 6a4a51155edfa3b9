"""Memory: what a call needs at its peak, and a limit for a process."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def peak_bytes(run: Callable[[], T]) -> tuple[T, int]:
    """A call's result, and how far it raised the process's resident memory at its peak (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _resident("VmRSS")
    result = run()
    return result, max(0, _resident("VmHWM") - before)


def limit_memory(size: int) -> None:
    """Let this process allocate at most `size` bytes: more is an error in it, not the machine's end."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size, hard))


def total_memory() -> int:
    """The machine's memory, bytes."""
    return _field(Path("/proc/meminfo"), "MemTotal")


def _resident(field: str) -> int:
    return _field(Path("/proc/self/status"), field)


def _field(path: Path, name: str) -> int:
    line: Any = next(row for row in path.read_text().splitlines() if row.startswith(name))
    return int(line.split()[1]) * 1024
