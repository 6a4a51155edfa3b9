"""torch's own threads: a compiled function runs on them as torch's operations do.

torch's operations leave OpenMP's threads awake for a while, spinning on their cores, so threads of another kind would
find no core free. A function that joins the team starts at once.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable


@functools.cache
def team() -> Callable[[int, int, int], None] | None:
    """Run `void f(void *data)` on so many threads: called as (address of f, address of data, threads).

    None where torch's threads are not to be had: its OpenMP has GNU's entry point on Linux. After a fork there are
    none, which OpenMP itself does not notice.
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
