"""Sweeps: independent runs with a result file each, written atomically; a run with a result is not run again.

A run is plain data; its file is named by a hash of it. So a killed sweep can be resumed, ends with the same results,
and can be summarised at any time. A run that fails, or whose process dies, is tried once more, then recorded as failed.
"""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxteleport import __version__
from fxteleport.atomic_files import read_json, write_text
from fxteleport.passes.errors import CheckpointError, InputError
from fxteleport.tools.experiments.experiment import Row, Run, single_thread
from fxteleport.tools.options.paper import ENGINES
from fxteleport.tools.worker_pool import TRIES, Failure, WorkerPool

Measure = Callable[[Run], list[Row]]
Found = dict[str, Any]  # the content of a result file: the run, and its rows or its error


@dataclass(frozen=True)
class Sweep:
    """The results of a sweep: measurements with their runs' settings, in the order of the runs, and the failures."""

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
        on_done: called after each run, and for each whose result is there.

    Raises:
        InputError: an unknown engine, or one that is not installed.
    """
    if engine not in ENGINES:
        raise InputError(f"there is no engine '{engine}': choose one of {', '.join(ENGINES)}")
    folder.mkdir(parents=True, exist_ok=True)
    waiting = []
    for run in runs:
        if is_finished(name, run, folder):
            on_done()
        else:
            waiting.append(run)
    engines = {"local": _local, "ray": _ray}
    for run, result in engines[engine](measure, waiting, jobs, num_gpus):
        write_text(folder / file_name(name, run), json.dumps(result) + "\n")
        on_done()
    return gather(name, runs, folder)


def gather(name: str, runs: Sequence[Run], folder: Path) -> Sweep:
    """The contents of the result files, whether or not the sweep has ended."""
    rows: list[Row] = []
    failed, done = [], 0
    for run in runs:
        result = _result(folder / file_name(name, run))
        if "error" in result:
            failed.append({"run": run, "error": result["error"]})
        elif "rows" in result:
            done += 1
            shared = {k: v for k, v in run.items() if k != "data_root"}
            rows += [{**shared, **row} for row in result["rows"]]
    return Sweep(rows, failed, done, len(runs))


def file_name(name: str, run: Run) -> str:
    """The result file of a run: a hash of its settings and of this version."""
    text = json.dumps([name, __version__, run], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20] + ".json"


def attempt(measure: Measure, run: Run) -> Found:
    """One run, in whatever process: measure, and once more if that fails."""
    single_thread()
    for tries in range(1, TRIES + 1):
        try:
            start = time.process_time()
            return {"run": run, "rows": measure(run), "cpu_seconds": time.process_time() - start}
        except InputError:
            raise
        except Exception as error:
            result = {"run": run, "error": f"{type(error).__name__}: {error}", "tries": tries,
                     "traceback": traceback.format_exc()}  # fmt: skip
    return result


def is_finished(name: str, run: Run, folder: Path) -> bool:
    """Whether a run's result is there. A failure is not final: a sweep that is started again tries it again."""
    return "rows" in _result(folder / file_name(name, run))


def _result(path: Path) -> Found:
    """What a result file holds; nothing where there is none, or none that `execute` wrote."""
    try:
        result: Found = read_json(path)
    except CheckpointError:
        return {}
    rows = result.get("rows", [])
    return result if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) else {}


def _local(measure: Measure, runs: Sequence[Run], jobs: int, num_gpus: float) -> Iterator[tuple[Run, Found]]:
    """Processes of this machine; a single job is done by this process itself."""
    if jobs == 1:
        yield from ((run, attempt(measure, run)) for run in runs)
        return
    if not runs:
        return
    with WorkerPool(min(jobs, len(runs))) as pool:
        for i, result in pool.run(attempt, [(measure, run) for run in runs]):
            yield runs[i], _recorded(runs[i], result)


def _ray(measure: Measure, runs: Sequence[Run], jobs: int, num_gpus: float) -> Iterator[tuple[Run, Found]]:
    """Ray's workers. Result files are written here, not by them."""
    from fxteleport.tools.experiments.ray_workers import run_all

    for i, result in run_all(attempt, [(measure, run) for run in runs], jobs, num_gpus):
        yield runs[i], _recorded(runs[i], result)


def _recorded(run: Run, result: Found | Failure) -> Found:
    """The content of a run's file.

    Raises:
        InputError: the call is wrong, and so are all other runs.
    """
    if not isinstance(result, Failure):
        return result
    if isinstance(result.error, InputError):
        raise result.error
    return {"run": run, "error": str(result), "tries": TRIES}
