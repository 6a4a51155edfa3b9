"""A cache for facts about classes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def once_per_class(fn: Callable[[type], T]) -> Callable[[type], T]:
    """Cache a function of a class for the last 4096 classes: a notebook's classes must not be kept alive for ever."""
    return functools.lru_cache(maxsize=4096)(fn)
