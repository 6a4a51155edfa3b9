"""What is asked of a class again and again is found out once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def once_per_class(fn: Callable[[type], T]) -> Callable[[type], T]:
    """Keep what a function says of the last 4096 classes: those of a notebook must not be kept for ever."""
    return functools.lru_cache(maxsize=4096)(fn)
