"""Sweeps: independent runs, a result file each, written atomically; what is there is not run again.

A run is plain data; its file is named by a hash of it. So a sweep that was killed goes on where it was, ends with the
same results, and can be summarised at any time. A run that fails is tried once more, then recorded as failed.
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
from fxteleport.errors import CheckpointError, InputError
from fxteleport.files import read_json, write_text
from fxteleport.tools.experiments.base import Row, Run, single_thread

ENGINES = ("local", "ray")
_TRIES = 2
Measure = Callable[[Run], list[Row]]


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
        engine: "local" (joblib), or "ray" (the extra `ray`).
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
    for _ in engines[engine](name, measure, waiting, folder, jobs, num_gpus):
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


def execute(name: str, measure: Measure, run: Run, folder: Path) -> None:
    """One run, in whatever process: measure (twice, if the first time fails) and write the file."""
    single_thread()
    found: dict[str, Any] = {}
    for attempt in range(_TRIES):
        try:
            start = time.process_time()
            found = {"run": run, "rows": measure(run)}
            found["cpu_seconds"] = time.process_time() - start
            break
        except InputError:
            raise
        except Exception as error:
            found = {"run": run, "error": f"{type(error).__name__}: {error}", "tries": attempt + 1,
                     "traceback": traceback.format_exc()}  # fmt: skip
    write_text(folder / file_name(name, run), json.dumps(found) + "\n")


def _finished(path: Path) -> bool:
    """A failure is not final: a sweep that is started again tries it again."""
    return "rows" in _result(path)


def _result(path: Path) -> dict[str, Any]:
    """What a result file holds; nothing where there is none, or none that `execute` wrote."""
    try:
        found: dict[str, Any] = read_json(path)
    except CheckpointError:
        return {}
    rows = found.get("rows", [])
    return found if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) else {}


def _local(
    name: str, measure: Measure, runs: Sequence[Run], folder: Path, jobs: int, num_gpus: float
) -> Iterator[None]:
    if jobs == 1 or len(runs) < 2:
        for run in runs:
            execute(name, measure, run, folder)
            yield
        return
    try:
        from joblib import Parallel, delayed
    except ImportError:
        raise InputError('--jobs needs joblib: pip install "fxteleport[experiments]"') from None
    work = (delayed(execute)(name, measure, run, folder) for run in runs)
    yield from Parallel(n_jobs=jobs, return_as="generator_unordered")(work)


def _ray(name: str, measure: Measure, runs: Sequence[Run], folder: Path, jobs: int, num_gpus: float) -> Iterator[None]:
    try:
        import ray
    except ImportError:
        raise InputError('--engine ray needs Ray: pip install "fxteleport[ray]"') from None
    own = not ray.is_initialized()
    if own:
        ray.init(num_cpus=jobs, log_to_driver=False, include_dashboard=False)
    try:
        remote = ray.remote(num_cpus=1, num_gpus=num_gpus, max_retries=1)(execute)
        waiting = [remote.remote(name, measure, run, folder.resolve()) for run in runs]
        while waiting:
            ready, waiting = ray.wait(waiting)
            yield from ray.get(ready)
    finally:
        if own:
            ray.shutdown()
