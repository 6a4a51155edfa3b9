"""Runs a compiled function on torch's own OpenMP threads.

After an operation, OpenMP's threads go on spinning on their cores for a while, so other threads would find no free
core. A function that runs on the same team starts at once.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable


@functools.cache
def team() -> Callable[[int, int, int], None] | None:
    """A function (address of f, address of data, threads) that runs `void f(void *data)` on torch's threads.

    None where they are not available: GNU's entry point exists on Linux alone, and after a fork there are no threads,
    which OpenMP does not notice.
    """
    if _forked:
        return None
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel  # torch makes the symbols of its OpenMP visible to all
    except (AttributeError, OSError, TypeError):
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return lambda function, data, threads: parallel(function, data, threads, 0)


_forked: list[bool] = []


def _after_fork() -> None:
    _forked.append(True)
    team.cache_clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
