"""Sweeps: independent runs, a result file each, written atomically; what is there is not run again.

A run is plain data; its file is named by a hash of it. So a sweep that was killed goes on where it was, ends with the
same results, and can be summarised at any time. A run that fails, or whose process dies, is tried once more, then
recorded as failed. (Why pebble and not joblib: there one process that dies ends the sweep.)
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from fxteleport import __version__
from fxteleport.atomic_files import read_json, write_text
from fxteleport.passes.errors import CheckpointError, InputError
from fxteleport.tools.experiments.experiment import Row, Run, single_thread

ENGINES = ("local", "ray")
_TRIES = 2
Measure = Callable[[Run], list[Row]]
Found = dict[str, Any]  # what a result file holds: the run, and its rows or its error


@dataclass(frozen=True)
class Sweep:
    """What came of a sweep: measurements with their runs' settings, in the order of the runs, and the failures."""

    rows: list[Row]
    failed: list[dict[str, Any]]
    done: int
    total: int


def sweep(
    name: str,
    measure: Measure,
    runs: Sequence[Run],
    folder: Path,
    jobs: int = 1,
    engine: str = "local",
    num_gpus: float = 0.0,
    on_done: Callable[[], None] = lambda: None,
) -> Sweep:
    """Run what has no result file yet, then gather all of them.

    Args:
        name: of the experiment.
        measure: an importable function.
        folder: takes a file for each run.
        jobs: processes at a time.
        engine: "local" (processes of this machine), or "ray" (the extra `ray`).
        num_gpus: of each run, for Ray.
        on_done: called after each run.

    Raises:
        InputError: an unknown engine, or one that is not installed.
    """
    if engine not in ENGINES:
        raise InputError(f"there is no engine '{engine}': choose one of {', '.join(ENGINES)}")
    folder.mkdir(parents=True, exist_ok=True)
    waiting = []
    for run in runs:
        if _finished(folder / file_name(name, run)):
            on_done()
        else:
            waiting.append(run)
    engines = {"local": _local, "ray": _ray}
    for run, found in engines[engine](measure, waiting, jobs, num_gpus):
        write_text(folder / file_name(name, run), json.dumps(found) + "\n")
        on_done()
    return gather(name, runs, folder)


def gather(name: str, runs: Sequence[Run], folder: Path) -> Sweep:
    """What the result files hold, whether or not the sweep has ended."""
    rows: list[Row] = []
    failed, done = [], 0
    for run in runs:
        found = _result(folder / file_name(name, run))
        if "error" in found:
            failed.append({"run": run, "error": found["error"]})
        elif "rows" in found:
            done += 1
            shared = {k: v for k, v in run.items() if k != "data_root"}
            rows += [{**shared, **row} for row in found["rows"]]
    return Sweep(rows, failed, done, len(runs))


def file_name(name: str, run: Run) -> str:
    """The result file of a run: a hash of its settings and of this version."""
    text = json.dumps([name, __version__, run], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20] + ".json"


def attempt(measure: Measure, run: Run) -> Found:
    """One run, in whatever process: measure, and once more if that fails."""
    single_thread()
    for tries in range(1, _TRIES + 1):
        try:
            start = time.process_time()
            return {"run": run, "rows": measure(run), "cpu_seconds": time.process_time() - start}
        except InputError:
            raise
        except Exception as error:
            found = {"run": run, "error": f"{type(error).__name__}: {error}", "tries": tries,
                     "traceback": traceback.format_exc()}  # fmt: skip
    return found


def _finished(path: Path) -> bool:
    """A failure is not final: a sweep that is started again tries it again."""
    return "rows" in _result(path)


def _result(path: Path) -> Found:
    """What a result file holds; nothing where there is none, or none that `execute` wrote."""
    try:
        found: Found = read_json(path)
    except CheckpointError:
        return {}
    rows = found.get("rows", [])
    return found if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) else {}


def _local(measure: Measure, runs: Sequence[Run], jobs: int, num_gpus: float) -> Iterator[tuple[Run, Found]]:
    """Processes of this machine; one that dies (out of memory, say) takes none of the others with it.

    A single job is done by this process itself.
    """
    if jobs == 1:
        yield from ((run, attempt(measure, run)) for run in runs)
        return
    pool = ProcessPool(min(jobs, len(runs)), context=get_context("spawn"))

    def start(run: Run) -> Any:
        return pool.schedule(attempt, args=(measure, run))

    try:
        running = {start(run): (run, 1) for run in runs}
        while running:
            for task in wait(running, return_when=FIRST_COMPLETED).done:
                run, tries = running.pop(task)
                try:
                    yield run, task.result()
                except ProcessExpired as error:
                    if tries < _TRIES:
                        running[start(run)] = (run, tries + 1)
                    else:
                        yield run, _died(run, f"with status {error.exitcode}")
    finally:
        pool.stop()
        pool.join()


def _ray(measure: Measure, runs: Sequence[Run], jobs: int, num_gpus: float) -> Iterator[tuple[Run, Found]]:
    """Ray: the cluster of RAY_ADDRESS, else one of this machine. Result files are written here, not by its workers."""
    try:
        import ray
    except ImportError:
        raise InputError('--engine ray needs Ray: pip install "fxteleport[ray]"') from None
    own = not ray.is_initialized()
    if own:
        here: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": jobs, "include_dashboard": False}
        ray.init(log_to_driver=False, **here)
    gone = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError)
    try:
        remote = ray.remote(num_cpus=1, num_gpus=num_gpus, max_retries=_TRIES - 1)(attempt)
        running = {remote.remote(measure, run): run for run in runs}
        while running:
            for task in ray.wait(list(running))[0]:
                run = running.pop(task)
                try:
                    yield run, ray.get(task)
                except gone as error:
                    yield run, _died(run, f"({type(error).__name__})")
    finally:
        if own:
            ray.shutdown()


def _died(run: Run, how: str) -> Found:
    return {"run": run, "error": f"its process died {how}", "tries": _TRIES}
