"""Every experiment end to end on the smoke preset, and their statistics and verdicts on made-up measurements."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import fxteleport as ft
from fxteleport.tools.cli import app
from fxteleport.tools.experiments import data, gradients, level_set, micro, midway, networks, surface, training
from fxteleport.tools.experiments.experiment import Options, Row
from fxteleport.tools.experiments.registry import ALL, EXPERIMENTS, variants
from fxteleport.tools.experiments.statistics import bootstrap, spearman, trend
from fxteleport.tools.options import paper
from fxteleport.training.optimizer_state import STATES

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["paper", *(str(a) for a in args), "--jobs", "1"])


def test_the_options_name_what_there_is() -> None:
    """They are written down once more, since the help is printed without torch."""
    assert tuple(EXPERIMENTS) == paper.EXPERIMENTS and paper.ALL == ALL
    assert (tuple(data.NAMES), tuple(networks.ACTIVATIONS), networks.INITS, tuple(training.METRICS), STATES) == (
        paper.DATA, paper.ACTIVATIONS, paper.INITS, paper.METRICS, paper.STATES,
    )  # fmt: skip


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_smoke(name: str, tmp_path: Path) -> None:
    done = call(name, "--preset", "smoke", "-o", tmp_path, "--json", "-")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)
    assert found["verdicts"] and not found["failed"]
    for verdict in found["verdicts"]:
        assert verdict["low"] <= verdict["value"] <= verdict["high"]
        assert verdict["verdict"] == ("holds" if verdict["holds"] else "does not hold here")
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"config.json", "results.csv", "verdict.json", "figure.png", "figure.pdf", "runs"}
    with open(tmp_path / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 1 and {"data", "model", "seed"} <= rows[0].keys()
    assert json.loads((tmp_path / "config.json").read_text())["experiment"] == name
    assert (tmp_path / "figure.png").stat().st_size > 5000
    check_summaries(name, tmp_path)


def check_summaries(name: str, folder: Path, *options: object) -> None:
    """Whichever run is missing, the others are summed up, and nothing is run."""
    for path in sorted((folder / "runs").iterdir())[:4]:
        text = path.read_text()
        path.unlink()
        left = len(list((folder / "runs").iterdir()))
        done = call(name, "--preset", "smoke", *options, "-o", folder, "--summary", "--json", "-")
        assert not path.exists()
        if not left:
            assert done.exit_code == 2 and "nothing to sum up" in done.stderr
        else:
            assert done.exit_code == 0, (done.output, done.exception)
            (found,) = json.loads(done.stdout)
            assert (found["done"], found["runs"]) == (left, left + 1)
        path.write_text(text)


def test_teleporting_midway(tmp_path: Path) -> None:
    options = ["--teleport-epoch", 1, "--epochs", 3, "--sigma", 0.5, "--sigma", 0.9]
    done = call("training", "--preset", "smoke", *options, "-o", tmp_path, "--json", "-")
    (found,) = json.loads(done.stdout)
    assert found["experiment"] == "training-midway" and len(found["verdicts"]) == 3
    with open(tmp_path / "results.csv") as file:
        rows = list(csv.DictReader(file))
    # Until then nothing was done, and at that moment the function stays.
    for seed in ("0", "1"):
        before = {r["sigma"]: r["test_loss"] for r in rows if r["epoch"] == "1" and r["seed"] == seed}
        after = {r["sigma"]: r["test_loss"] for r in rows if r["epoch"] == "2" and r["seed"] == seed}
        assert len(before) == 3 and len(set(before.values())) == 1 and len(set(after.values())) == 3
    check_summaries("training", tmp_path, *options)


@pytest.mark.parametrize(
    "schedule", [["--every", 1], ["--probability", 0.9], ["--candidates", 3, "--metric", "lookahead"],
                 ["--candidates", 3, "--metric", "gradient-norm", "--every", 1, "--state", "reset"]],
)  # fmt: skip
def test_schedules(schedule: list[object], tmp_path: Path) -> None:
    done = call("training", "--preset", "smoke", "--runs", 1, *schedule, "-o", tmp_path, "--json", "-")
    assert done.exit_code == 0 and not json.loads(done.stdout)[0]["failed"], done.output


def test_all_stands_for_every_figure() -> None:
    found = variants(ALL, Options("paper"))
    assert len({folder for folder, _, _ in found}) == len(found) == len(EXPERIMENTS) + 3
    sizes = {folder: len(e.grid(o)) for folder, e, o in found}
    assert sizes["training"] == 2 * 4 * 3 * 2 * 5 * 2  # data, networks, learning rates, momentum, runs, methods
    laptop = {folder: e.grid(o) for folder, e, o in variants(ALL, Options())}
    assert all(len({json.dumps(r) for r in runs}) == len(runs) for runs in laptop.values())


NET = """
import torch
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 5, 3), nn.GELU(), nn.Flatten(), nn.Linear(80, 10)
    )

def example_inputs():
    return torch.randn(2, 3, 8, 8)
"""


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_network_of_your_own(name: str, tmp_path: Path) -> None:
    """In colour, of a size of its own, with no ReLU: in every experiment, on grey images."""
    (tmp_path / "net.py").write_text(NET)
    done = call(name, "--preset", "smoke", "--model", f"{tmp_path / 'net.py'}:net", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "figure.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.parametrize("model", ["convnext_atto", "vit_tiny_patch16_224", "torchvision/alexnet", "resnet10t"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_any_model(name: str, model: str, tmp_path: Path) -> None:
    done = call(name, "--preset", "smoke", "--runs", 1, "--model", model, "-o", tmp_path)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nothing"], "EXPERIMENT is one of"), (["micro", "--preset", "huge"], "--preset is one of"),
        (["micro", "--data", "imagenet"], "--data is one of"), (["micro", "--model", "resnet81"], "resnet81"),
        (["training", "--activation", "swoosh"], "no activation 'swoosh'"),
        (["micro", "--sigma", "1.5"], "cob_range < 1"),
        (["training", "--candidates", "4"], "pass one"), (["training", "--metric", "luck"], "--metric is one of"),
        (["training", "--init", "magic"], "no initialisation"), (["training", "--lr", "-1"], "--lr must be positive"),
        (["micro", "--data", "folder", "--data-root", "/nowhere"], "folder of images"),
    ],
)  # fmt: skip
def test_a_wrong_call_exits_with_2(options: list[str], message: str, tmp_path: Path) -> None:
    done = call(*options, "-o", tmp_path / "out")
    assert done.exit_code == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_failed_run_is_counted_and_exits_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fxteleport.tools.experiments import data

    real = data.load

    def broken(*args: object, **settings: object) -> data.Data:
        if len(args) > 2:  # only in the runs
            raise RuntimeError("disk on fire")
        return real(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(data, "load", broken)
    done = call("level-set", "--preset", "smoke", "-o", tmp_path)
    assert done.exit_code == 1 and "1 failed" in done.stdout and "disk on fire" in done.stdout
    assert json.loads((tmp_path / "verdict.json").read_text())["runs"] == {"total": 1, "done": 0, "failed": 1}


# -- networks --------------------------------------------------------------------------------------------


LARGE = [pytest.param(name, "relu", marks=pytest.mark.slow) for name in ("vgg16_bn", "densenet121")]


@pytest.mark.parametrize(("name", "activation"), [("mlp128", "elu"), ("resnet18", "tanh"), *LARGE])
def test_networks_teleport_exactly(name: str, activation: str) -> None:
    shape = (1, 32, 32)
    network = networks.build(name, shape, 7, activation, "xavier", seed=3).eval()
    x = torch.randn(2, *shape)
    moved = ft.teleport(network, x, cob_range=0.9, landscape="inter", exact=True, seed=1)
    assert ft.verify(network, moved, x).passed and network(x).shape == (2, 7)
    again = networks.build(name, shape, 7, activation, "xavier", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


# -- statistics and verdicts -----------------------------------------------------------------------------


def test_bootstrap_covers_the_mean() -> None:
    inside = 0
    for seed in range(100):
        value, low, high = bootstrap(np.random.default_rng(seed).normal(2, 1, 30), draws=400)
        inside += low <= 2 <= high
        assert low <= value <= high
    assert 85 <= inside <= 100


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3], [10, 20, 90]) == pytest.approx(1) and spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3], [5, 5, 5]) == 0
    assert trend([[1, 2, 3], [1, 2, 4]], [0.1, 0.2, 0.3]) == pytest.approx((1, 1, 1))


def test_the_theory_of_ratios() -> None:
    plan = ft.plan(*(lambda m: (m, torch.zeros(1, 4)))(networks.build("mlp", (1, 2, 2), 3)))
    for sigma in (0.3, 0.6):
        drawn = [plan.scales(plan.sample(sigma, seed=s))["3.weight"] for s in range(40)]
        assert float(torch.stack([d.square() for d in drawn]).mean()) == pytest.approx(
            gradients.theory(sigma), rel=0.01
        )
    assert gradients.theory(0) == 1


def test_verdicts_say_what_does_not_hold() -> None:
    angles = [
        {"pair": pair, "degrees": 90 + off * (1 + i % 3), "teleportation": i}
        for pair, off in (("micro_gradient", 0.5), ("micro_random", 0.1), ("micro_decayed", 0.5))
        for i in range(20)
    ]
    assert [v.holds for v in micro.judge(angles)] == [False, False, False]
    for row in angles:
        if row["pair"] == "micro_gradient":
            row["degrees"] = 90 + 1e-6
    assert [v.holds for v in micro.judge(angles)] == [True, True, True]
    level = [
        {"sigma": 0.9, "mean_abs_weight": 1.0, "mean_abs_change": c, "loss_difference": d}
        for c, d in ((0.1, 1e-3), (0.2, 1e-4))
    ]
    assert [v.holds for v in level_set.judge(level)] == [False, False]


def bowl(sigma: float, seed: int, steepness: float) -> list[Row]:
    """A surface whose loss rises from 0.1 on, and a trajectory whose plane holds 0.9 of it."""
    setting = {"data": "d", "model": "m", "activation": "relu", "seed": seed, "sigma": sigma}
    steps = [-0.2, -0.1, 0.0, 0.1, 0.2]
    found: list[Row] = [
        {"plane": surface.RANDOM, "x": x, "y": y, "loss": 0.1 + steepness * (x * x + y * y)}
        for x in steps
        for y in steps
    ]
    found.append({"plane": surface.TRAJECTORY, "epoch": 0, "x": 0, "y": 0, "first_share": 0.7, "second_share": 0.2})
    return [setting | row for row in found]


@pytest.mark.parametrize(("steeper", "holds"), [(1.0, [True, True, True]), (0.0, [False, False, True])])
def test_a_surface_is_sharper_where_it_is_steeper(steeper: float, holds: list[bool]) -> None:
    rows = [r for seed in range(3) for s in (0.0, 0.5, 0.9) for r in bowl(s, seed, 1.0 + steeper * s)]
    assert [v.holds for v in surface.judge(rows)] == holds
    one = surface.rise(bowl(0.9, 0, 1.0))
    near = [(x, y) for x in (-2, -1, 0, 1, 2) for y in (-2, -1, 0, 1, 2) if 0 < x * x + y * y <= 6.25]
    assert one == pytest.approx(np.mean([np.log(1 + (x * x + y * y) / 10) for x, y in near]))


def curves(**accuracy: float) -> list[Row]:
    base = {"data": "d", "model": "m", "activation": "relu", "init": "default", "momentum": 0.9, "lr": 0.1}
    return [
        {**base, "seed": seed, "method": method, "epoch": epoch, "test_accuracy": goal * epoch / 5 + 0.001 * seed}
        for method, goal in accuracy.items()
        for seed in range(4)
        for epoch in range(6)
    ]


def test_training_is_judged_by_pairs() -> None:
    assert training.judge(curves(plain=0.8, teleported=0.9))[0].holds
    assert not training.judge(curves(plain=0.8, teleported=0.8))[0].holds
    found = training.judge_controls(curves(plain=0.8, teleported=0.9, pseudo=0.7, reinit=0.95))
    assert [v.holds for v in found] == [True, True, False]
    rows = [{**r, "sigma": s, "at": [2]} for s, r in zip([0.0] * 24 + [0.5] * 24 + [0.9] * 24, [
        *curves(plain=0.5), *curves(teleported=0.6), *curves(teleported=0.7)], strict=True)]  # fmt: skip
    assert [v.holds for v in midway.judge(rows)] == [True, True, True]
