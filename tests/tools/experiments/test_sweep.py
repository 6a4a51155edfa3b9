"""Sweeps: resumable after a kill, one retry, failures counted, the same results on every engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fragile_runs
import pytest
from typer.testing import CliRunner

import fxteleport as ft
from fxteleport.tools.cli import app
from fxteleport.tools.experiments.experiment import Row, Run
from fxteleport.tools.experiments.sweep import file_name, gather, sweep

RUNS: list[Run] = [{"x": x, "data_root": "here"} for x in range(4)]


def square(run: Run) -> list[Row]:
    return [{"square": run["x"] ** 2}]


def test_rows_carry_their_settings_in_the_order_of_the_runs(tmp_path: Path) -> None:
    found = sweep("t", square, RUNS, tmp_path)
    assert found.rows == [{"x": x, "square": x * x} for x in range(4)]
    assert (found.done, found.total, found.failed) == (4, 4, [])


def test_what_is_there_is_not_run_again(tmp_path: Path) -> None:
    first = sweep("t", square, RUNS[:2], tmp_path)
    calls = []

    def counted(run: Run) -> list[Row]:
        calls.append(run["x"])
        return square(run)

    steps: list[int] = []
    found = sweep("t", counted, RUNS, tmp_path, on_done=lambda: steps.append(1))
    assert calls == [2, 3] and len(steps) == 4
    assert found.rows[:2] == first.rows
    assert gather("t", RUNS, tmp_path) == found
    assert gather("other", RUNS, tmp_path).done == 0


def test_half_a_file_is_run_again(tmp_path: Path) -> None:
    sweep("t", square, RUNS, tmp_path)
    path = tmp_path / file_name("t", RUNS[1])
    path.write_text(path.read_text()[:20])
    assert sweep("t", square, RUNS, tmp_path).done == 4


def test_a_crash_is_tried_twice_then_counted(tmp_path: Path) -> None:
    calls: list[int] = []

    def fragile(run: Run) -> list[Row]:
        calls.append(run["x"])
        if run["x"] == 1 or calls.count(2) == 1 == calls.count(run["x"]):
            raise ValueError("no luck")
        return square(run)

    found = sweep("t", fragile, RUNS, tmp_path)
    assert calls.count(1) == 2 and calls.count(2) == 2
    assert found.done == 3 and [f["run"]["x"] for f in found.failed] == [1]
    assert found.failed[0]["error"] == "ValueError: no luck"
    again = sweep("t", square, RUNS, tmp_path)  # a failure is not final
    assert again.done == 4 and not again.failed


def test_several_processes_give_the_same(tmp_path: Path) -> None:
    from fxteleport.tools.experiments import histogram
    from fxteleport.tools.experiments.experiment import Options

    runs = histogram.grid(Options("smoke"))
    alone = sweep("t", histogram.measure, runs, tmp_path / "a")
    assert sweep("t", histogram.measure, runs, tmp_path / "b", jobs=2) == alone


RAY = pytest.param("ray", marks=pytest.mark.slow)


@pytest.mark.parametrize("engine", ["local", RAY])
def test_a_process_that_dies_takes_no_other_run_with_it(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run dies always, one only the first time: 2 tries for each."""
    if engine == "ray":
        pytest.importorskip("ray")
        monkeypatch.setenv("PYTHONPATH", str(Path(fragile_runs.__file__).parent))  # Ray's workers look nowhere else
    runs: list[Run] = [{"x": x, "deaths": {1: 9, 2: 1}.get(x, 0), "marks": str(tmp_path)} for x in range(5)]
    steps: list[int] = []
    found = sweep(
        "t", fragile_runs.measure, runs, tmp_path / "runs", jobs=2, engine=engine, on_done=lambda: steps.append(1)
    )
    assert [r["square"] for r in found.rows] == [0, 4, 9, 16] and found.done == 4 and len(steps) == 5
    assert [f["run"]["x"] for f in found.failed] == [1] and "its process died" in found.failed[0]["error"]
    assert {x: len(list(tmp_path.glob(f"{x}-*"))) for x in range(5)} == {0: 0, 1: 2, 2: 1, 3: 0, 4: 0}


@pytest.mark.slow
def test_ray_gives_the_same(tmp_path: Path) -> None:
    """The whole command, its files byte for byte."""
    pytest.importorskip("ray")
    for engine in ("local", "ray"):
        options = ["histogram", "--preset", "smoke", "--jobs", "1", "--engine", engine, "-o", str(tmp_path / engine)]
        done = CliRunner().invoke(app, ["paper", *options])
        assert done.exit_code == 0, done.output
    for name in ("config.json", "results.csv", "verdict.json", "figure.png"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes(), name


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ft.InputError, match="engine 'cloud'"):
        sweep("t", square, RUNS, tmp_path, engine="cloud")


def test_killed_and_started_again_it_ends_with_the_same_results(tmp_path: Path) -> None:
    options = ["pseudo", "--preset", "smoke", "--jobs", "1", "--output"]

    def whole(folder: str) -> None:
        done = CliRunner().invoke(app, ["paper", *options, str(tmp_path / folder)])
        assert done.exit_code == 0, done.output

    command = [sys.executable, "-m", "fxteleport", "paper", *options, str(tmp_path / "killed")]
    killed = subprocess.Popen(command, env=dict(os.environ, OMP_NUM_THREADS="1"), stdout=subprocess.DEVNULL)
    runs = tmp_path / "killed" / "runs"
    for _ in range(60_000):
        if killed.poll() is not None or len(list(runs.glob("[!.]*.json"))) >= 2:
            break
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    whole("whole")
    total = len(list((tmp_path / "whole" / "runs").iterdir()))
    assert 2 <= len(list(runs.glob("[!.]*.json"))) < total
    whole("killed")
    for name in ("config.json", "results.csv", "verdict.json", "figure.png"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert json.loads((tmp_path / "whole" / "verdict.json").read_text())["runs"]["done"] == total
