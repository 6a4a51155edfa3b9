"""Worker processes with time and memory limits, and one treatment of crashes and Ctrl-C for all commands.

- A call that takes too long is ended with its worker; a worker that allocates too much gets a MemoryError.
- A worker that dies affects no other call. Its call is made once more, alone, after all others, since a process is
  mostly killed for lack of memory.
- An exception in a call becomes its result: a `Failure`.
- An exception in the parent, an interrupt too, ends all workers at once. Workers do not hear the terminal's Ctrl-C.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, TimeoutError, as_completed
from dataclasses import dataclass
from multiprocessing import resource_tracker
from types import TracebackType
from typing import Any, TypeVar

import torch
from pebble import ProcessExpired, ProcessPool

from fxteleport.tools.console import one_line
from fxteleport.tools.models.memory import limit_memory

R = TypeVar("R")
T = TypeVar("T")
TRIES = 2  # of a call whose process dies


@dataclass(frozen=True)
class Limits:
    """The limits of one worker; None: no limit.

    Attributes:
        seconds: wall-clock time of one call.
        memory: bytes that it may allocate.
        calls: the number of calls after which a process is replaced.
    """

    seconds: float | None = None
    memory: int | None = None
    calls: int | None = None


@dataclass(frozen=True)
class Failure:
    """Why a call has no result.

    Attributes:
        error: its exception, a TimeLimitError, or a ProcessDiedError.
    """

    error: Exception

    def __str__(self) -> str:
        return one_line(self.error)


class TimeLimitError(Exception):
    """A call took too long."""


class ProcessDiedError(Exception):
    """A process ended in the middle of a call, twice."""


class WorkerPool:
    """Processes of this machine, in a `with` statement: all of them are ended with it.

    They are spawned, since a forked process inherits locks of threads that it does not have, and cannot use CUDA.
    """

    def __init__(self, workers: int, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        threads = max(1, (os.cpu_count() or 1) // workers)
        self._pool = ProcessPool(
            workers,
            self.limits.calls or 0,
            initializer=_prepare,
            initargs=(threads, self.limits.memory),
            context=multiprocessing.get_context("spawn"),
        )

    def __enter__(self) -> WorkerPool:
        with _interrupts_blocked():
            assert self._pool.active  # starts it: every worker inherits what its threads block
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            self._pool.close()
        else:
            self._pool.stop()
        self._pool.join()

    def run(self, function: Callable[..., R], arguments: Sequence[Sequence[Any]]) -> Iterator[tuple[int, R | Failure]]:
        """Call an importable function with each of several arguments; yields (index, result or Failure)."""
        calls = {self._start(function, each): i for i, each in enumerate(arguments)}
        died: list[int] = []
        try:
            for call in as_completed(calls):
                index = calls[call]
                result = self._result(call)
                if isinstance(result, Failure) and isinstance(result.error, ProcessDiedError):
                    died.append(index)
                else:
                    yield index, result
            for index in sorted(died):
                yield index, self._result(self._start(function, arguments[index]))
        finally:
            for call in calls:
                call.cancel()

    def _start(self, function: Callable[..., R], arguments: Sequence[Any]) -> Future[R]:
        call: Future[R] = self._pool.schedule(function, args=arguments, timeout=self.limits.seconds)
        return call

    def _result(self, call: Future[R]) -> R | Failure:
        try:
            return call.result()
        except TimeoutError:
            return Failure(TimeLimitError(f"took longer than {self.limits.seconds:g} s"))
        except ProcessExpired as error:
            why = ": most likely there was not enough memory" if error.exitcode == -_KILLED else ""
            return Failure(ProcessDiedError(f"its process died with status {error.exitcode}{why}"))
        except Exception as error:
            return Failure(error)


def in_order(results: Iterable[tuple[int, T]]) -> list[T]:
    """Results in the order of their indices."""
    return [result for _, result in sorted(results, key=lambda pair: pair[0])]


_KILLED = 9  # the signal by which Linux ends a process that takes too much memory


def _prepare(threads: int, memory: int | None) -> None:
    """Prepare a new worker: quiet, with its share of cores and memory, and ended by a signal at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # pebble's handler waits until the kernel that is running has ended
    sys.stdout = sys.stderr  # standard output is the command's
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    if memory is not None:
        limit_memory(memory)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """While this lasts, started processes and their children ignore Ctrl-C, also while they import (not on Windows)."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it would unblock them, where starting the pool started it too
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
