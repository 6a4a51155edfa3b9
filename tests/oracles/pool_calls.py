"""Calls for worker processes: they raise, wait, allocate, die, or tell who they are."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch


def square(x: int) -> int:
    if x < 0:
        raise ValueError("no root\nis real")
    return x * x


def sleep(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def allocate(size: int) -> int:
    return torch.zeros(size, dtype=torch.uint8).numel()


def die(marks: str, name: str, deaths: int) -> str:
    """The process is gone the first times; a mark is left for each call, with the calls that run beside it."""
    folder = Path(marks)
    calls = len(list(folder.glob(f"{name}-*")))
    (folder / f"{name}-{calls}").touch()
    if calls < deaths:
        os._exit(9)
    return name
