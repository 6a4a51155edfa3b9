"""The processes that commands share: results, failures, limits, crashes and interrupts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pool_calls
import pytest

from fxteleport.tools.worker_pool import Failure, Limits, ProcessDiedError, TimeLimitError, WorkerPool, in_order


def test_results_and_failures_come_with_their_index() -> None:
    with WorkerPool(2) as pool:
        found = in_order(pool.run(pool_calls.square, [(2,), (-1,), (3,)]))
        assert found[0] == 4 and found[2] == 9
        assert isinstance(found[1], Failure) and isinstance(found[1].error, ValueError)
        assert str(found[1]) == "no root is real"
        assert in_order(pool.run(pool_calls.square, [])) == []


def test_a_call_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    start = time.monotonic()
    with WorkerPool(1, Limits(seconds=0.5)) as pool:
        late, early = in_order(pool.run(pool_calls.sleep, [(600,), (0,)]))
    assert (
        isinstance(late, Failure) and isinstance(late.error, TimeLimitError) and str(late) == "took longer than 0.5 s"
    )
    assert isinstance(early, int) and time.monotonic() - start < 300


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by Linux")
def test_memory_is_limited_for_each_process() -> None:
    with WorkerPool(1, Limits(memory=4_000_000_000, calls=1)) as pool:
        much, little = in_order(pool.run(pool_calls.allocate, [(8_000_000_000,), (1000,)]))
        assert isinstance(much, Failure) and "memory" in str(much) and little == 1000
        first, second = in_order(pool.run(pool_calls.sleep, [(0,), (0,)]))
        assert first != second  # `calls=1`: a process each


def test_a_call_whose_process_died_is_made_once_more(tmp_path: Path) -> None:
    deaths = {"a": 0, "always": 9, "once": 1, "b": 0}
    with WorkerPool(2) as pool:
        found = list(pool.run(pool_calls.die, [(str(tmp_path), name, n) for name, n in deaths.items()]))
    assert {i for i, _ in found[:2]} == {0, 3}  # after all others
    gone, *others = (in_order(found)[i] for i in (1, 0, 2, 3))
    assert isinstance(gone, Failure) and isinstance(gone.error, ProcessDiedError)
    assert str(gone) == "its process died with status 9" and others == ["a", "once", "b"]
    assert {name: len(list(tmp_path.glob(f"{name}-*"))) for name in deaths} == {"a": 1, "always": 2, "once": 2, "b": 1}


def test_an_exception_in_the_parent_ends_the_workers_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), WorkerPool(2) as pool:
        for _ in pool.run(pool_calls.sleep, [(0,), (600,), (600,)]):
            start = time.monotonic()
            raise KeyboardInterrupt
    assert time.monotonic() - start < 30


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_workers_do_not_hear_the_interrupt_of_a_terminal() -> None:
    """Not even while they start: a traceback of each would hide what the command says."""
    script = (
        "import os, signal, sys, pool_calls\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job inherits that it is ignored
        "from fxteleport.tools.worker_pool import WorkerPool\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        with WorkerPool(2) as pool:\n"
        "            os.killpg(0, signal.SIGINT)\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
    )
    paths = os.pathsep.join([str(Path(pool_calls.__file__).parent), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", script], env=dict(os.environ, PYTHONPATH=paths), start_new_session=True,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (0, "interrupted\n", "")
