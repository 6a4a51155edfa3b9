"""`fxteleport check`: what it compares, what it says of a failure, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from fxteleport.passes.rules.registry import RULES, Rule
from fxteleport.tools.checking.parallel import Job, perform, perform_all
from fxteleport.tools.cli import app
from fxteleport.tools.models.load import load
from fxteleport.tools.models.request import Request
from fxteleport.tools.options.common import Settings

SMALL = ["test_resnet", "--input-size", "3,32,32"]
NETS = """
import os
import torch
from torch import nn
from torch.nn import functional as F

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        self.gain = nn.Parameter(torch.rand(6))

    def activate(self, x):
        return F.softsign(x)

    def forward(self, x):
        y = self.down(self.activate(self.up(x)))
        y = y.cumsum(1)
        return x + self.gain * y

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(3, 6), nn.Sequential(Block(), Block()), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))

class Other(Net):
    def forward(self, x):
        return super().forward(x) * (1 + 2 ** -12)

class Picture(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.GELU(), nn.Dropout(), nn.Flatten(), nn.Linear(24, 4))

def make(): return Net()
def picture(): return Picture()
def other(): return Other()
def wide(): return nn.Linear(3, 5)
def thin(): return nn.Linear(2, 4)
def dies(): os._exit(9)
def example_inputs(): return torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
"""


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["check", *(str(a) for a in args)])


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path / "nets.py"


def fits(text: str) -> bool:
    """80 columns and no control characters."""
    return all(len(line) <= 80 and line.isprintable() for line in text.splitlines())


def line_of(text: str) -> int:
    return next(i for i, line in enumerate(NETS.splitlines(), 1) if text in line)


# -- a wrong rule ----------------------------------------------------------------------------------------


def passed_on(call: Any, input: Any) -> Any:
    return input.map


def passed_on_sum(call: Any, input: Any, dim: int) -> Any:
    return input.map


WRONG = {  # the operation whose rule is wrong: rule, node, op, module path, line
    F.softsign: (passed_on, "softsign", "softsign", "blocks.0", "F.softsign(x)"),
    "cumsum": (passed_on_sum, "cumsum", "cumsum", "blocks.0", "y.cumsum(1)"),
}


@pytest.mark.parametrize("how", [["--exact"], ["--landscape", "inter", "--cob-range", "0.9"]], ids=["exact", "uniform"])
@pytest.mark.parametrize("target", WRONG, ids=["softsign", "cumsum"])
def test_a_wrong_rule_is_found(target: Any, how: list[str], nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(f"{nets}:make", *how).exit_code == 0
    wrong, node, op, path, text = WRONG[target]
    names = ("input", "dim")[: wrong.__code__.co_argcount - 1]
    parameters = tuple((n, Rule.REQUIRED) for n in names)
    monkeypatch.setitem(RULES, target, Rule("deliberately_wrong", wrong, parameters, False))
    monkeypatch.chdir(nets.parent)
    done = call(f"{nets}:make", *how, "--junit", "x.xml", "--json", "x.json")
    assert done.exit_code == 1 and fits(done.stdout)
    first = json.loads(Path("x.json").read_text())[0]["first_difference"]
    assert (first["node"], first["op"], first["path"], first["rule"]) == (node, op, path, "deliberately_wrong")
    assert first["source"] == f"{nets}:{line_of(text)}"
    assert first["rule_source"] == f"{__file__}:{wrong.__code__.co_firstlineno}"
    assert first["expected"] != first["actual"]
    said = done.stdout.split()
    for word in (node, path, f"nets.py:{line_of(text)}", "deliberately_wrong", f"{first['expected']:.9g}"):
        assert word in said
    assert text in done.stdout
    problem = ET.parse("x.xml").getroot().find(".//failure")
    assert problem is not None and f"source: {nets}:{line_of(text)}" in str(problem.text)


def test_a_wrong_rule_in_every_way(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, F.softsign, Rule("wrong", passed_on, (("input", Rule.REQUIRED),), False))
    done = call(f"{nets}:make", "--paranoid")
    assert done.exit_code == 1 and fits(done.stdout)
    assert done.stdout.count("source") == 1  # one place, told once
    assert "0 of 192 checks passed" in done.stdout


# -- every way -------------------------------------------------------------------------------------------


def test_paranoid(nets: Path, tmp_path: Path) -> None:
    done = call(f"{nets}:picture", "--input-size", "3,4,4", "--paranoid", "--json", tmp_path / "x.json")
    assert done.exit_code == 0, done.output
    assert fits(done.stdout)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("full/", "weights/"))]
    assert len(rows) == 30 and all(len(row) == 10 for row in rows)
    assert all(cell == ("-" if "rescaled" in row[0] and i >= 6 else "pass") for row in rows for i, cell in
               enumerate(row) if i >= 2)  # fmt: skip
    records = json.loads((tmp_path / "x.json").read_text())
    assert len(records) == 30 * 4 * 2 + 18 * 4
    assert {r["batch"] for r in records} == {1, 2, 3} and all(r["vacuous"] is False for r in records)
    assert all(r["bitwise_equal"] for r in records if r["exact"])
    seen = {(r["mode"], r["norm_stats"], r["landscape"], r["dtype"], r["exact"], r["batch"], r["training"])
            for r in records}  # fmt: skip
    assert len(seen) == len(records)


# -- against ---------------------------------------------------------------------------------------------


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object] = lambda _: None) -> Path:
    state = {k: v.clone() for k, v in load("test_resnet", Request((3, 32, 32))).model.state_dict().items()}
    change(state)
    save_file(state, str(folder / "w.safetensors"))
    return folder / "w.safetensors"


def test_against_the_same_weights(tmp_path: Path) -> None:
    done = call(*SMALL, "--against", weights(tmp_path), "--json", tmp_path / "x.json")
    assert done.exit_code == 0 and "outputs equal to the last bit" in done.stdout and fits(done.stdout)
    (found,) = json.loads((tmp_path / "x.json").read_text())
    assert found["passed"] and found["against"] == str(tmp_path / "w.safetensors")
    assert found["mode"] is found["num_free"] is found["landscape"] is None  # nothing is teleported


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_against_a_teleported_network(mode: str, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["teleport", *SMALL, "--mode", mode, "-o", str(tmp_path / "net")]).exit_code == 0
    done = call(*SMALL, "--against", tmp_path / "net.safetensors")
    assert done.exit_code == 0 and "the original's own rounding" in " ".join(done.stdout.split())
    assert call(*SMALL, "--against", tmp_path / "net.safetensors", "--seed", "1").exit_code == 1


def test_against_weights_that_were_touched(tmp_path: Path) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        state["layer2.0.conv2.weight"] *= 1.01

    path = weights(tmp_path, change)
    assert call(*SMALL, "--against", path).exit_code == 1
    done = call(*SMALL, "--against", path, "--amp")
    assert done.exit_code == 1 and "the outputs differ" in done.stdout


def test_against_a_factory(nets: Path) -> None:
    assert call(f"{nets}:make", "--against", f"{nets}:make", "--amp").exit_code == 0
    done = call(f"{nets}:make", "--against", f"{nets}:other")
    assert done.exit_code == 1 and "the outputs differ by 0.00024 of the largest" in done.stdout


# -- many ------------------------------------------------------------------------------------------------


def test_patterns_seeds_and_files(tmp_path: Path) -> None:
    args = ("test_efficientnet_[el]*", "--input-size", "3,32,32", "--seeds", "2", "--mode", "all", "--exact")
    done = call(*args, "--jsonl", tmp_path / "x.jsonl", "--json", tmp_path / "x.json", "--junit", tmp_path / "x.xml")
    assert done.exit_code == 0 and fits(done.stdout)
    records = json.loads((tmp_path / "x.json").read_text())
    assert [(r["seed"], r["mode"]) for r in records[:4]] == [(0, "full"), (0, "weights"), (1, "full"), (1, "weights")]
    assert [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()] == records
    assert f"{len(records)} of {len(records)} checks passed" in done.stdout
    assert len({r["model"] for r in records}) * 4 == len(records) >= 8
    assert len(ET.parse(tmp_path / "x.xml").getroot().findall(".//testcase")) == len(records)


def test_lines_on_standard_output() -> None:
    done = call(*SMALL, "--jsonl", "-", "--seeds", "2")
    assert [json.loads(line)["seed"] for line in done.stdout.splitlines()] == [0, 1]


def jobs_of(*specs: str) -> list[Job]:
    return [Job(spec, Request((3,)), (Settings(exact=True),)) for spec in specs]


def test_processes(nets: Path) -> None:
    """The same records as in one process."""
    jobs = jobs_of(f"{nets}:make", f"{nets}:wide")
    found = dict(perform_all(jobs, 2))
    for i, job in enumerate(jobs):
        alone, spread = next(perform(job))[0], found[i][0]
        assert alone | {"seconds": 0} == spread | {"seconds": 0}


@pytest.mark.slow
def test_a_process_that_dies_takes_nobody_with_it(nets: Path) -> None:
    found = dict(perform_all(jobs_of(f"{nets}:make", f"{nets}:dies", f"{nets}:make"), 2))
    assert [found[i][0]["passed"] for i in range(3)] == [True, False, True]
    assert "its process died" in found[1][0]["error"]


def test_any_error_is_a_record(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug\nof ours")

    monkeypatch.setattr("fxteleport.tools.checking.parallel.run", broken)
    ((found, why),) = perform(jobs_of(f"{nets}:make")[0])
    assert not found["passed"] and found["error"] == why == "ZeroDivisionError: a bug of ours"


def test_pictures_in_another_layout(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(random.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    done = call(*SMALL, "--images", tmp_path, "--channels-last", "--exact", "--json", "-")
    (found,) = json.loads(done.stdout)
    assert done.exit_code == 0 and found["bitwise_equal"] and found["batch"] == 3
    assert found["channels_last"] and found["images"] == str(tmp_path) and found["device_name"]


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_convnext"])
def test_autocast(model: str) -> None:
    done = call(model, "--input-size", "3,64,64", "--amp", "--json", "-")
    (found,) = json.loads(done.stdout)
    ran = found["execution"]
    assert done.exit_code == 0 and ran["passed"] and ran["how"] == "autocast to bfloat16"
    assert 0 < ran["teleported"] <= ran["limit"] < 0.2


# -- wrong calls -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name a MODEL"),
        (["zzz*"], "no model matches"),
        (["--family", "resnot"], "did you mean resnet"),
        ([*SMALL, "test_vit", "--against", "test_vit"], "2 are named"),
        ([*SMALL, "--against", "nowhere.safetensors"], "no file 'nowhere.safetensors'"),
        ([*SMALL, "--against", "nowhere.py:make"], "no file 'nowhere.py'"),
        ([*SMALL, "--against", "resnet81"], "did you mean resnet18"),
        ([*SMALL, "--images", "nowhere"], "no folder 'nowhere'"),
        ([*SMALL, "--paranoid", "--amp"], "--paranoid goes with none of"),
        ([*SMALL, "--amp", "--dtype", "float64"], "leave --dtype at float32"),
        ([*SMALL, "--json", "-", "--jsonl", "-"], "both want standard output"),
        ([*SMALL, "--junit", "no/where.xml"], "its folder does not exist"),
        ([*SMALL, "--jsonl", "no/where.jsonl"], "cannot write 'no/where.jsonl': its folder does not exist"),
        ([*SMALL, "--seeds", "0"], "--seeds"),
        ([*SMALL, "--jobs", "0"], "--jobs"),
        ([*SMALL, "--device", "tpu"], "--device knows cpu, cuda, cuda:N and mps"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_wrong_calls(args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*args)
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.startswith("fxteleport: error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    ("other", "message"), [("wide", "outputs differ in shape"), ("thin", "cannot be compared here"), ("no", "has no")]
)
def test_networks_that_cannot_be_compared(other: str, message: str, nets: Path) -> None:
    done = call(f"{nets}:make", "--against", f"{nets}:{other}")
    assert done.exit_code == 2 and message in " ".join(done.stdout.split()) and fits(done.stdout)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an Apple GPU")
def test_mps_where_there_is_none() -> None:
    done = call(*SMALL, "--device", "mps")
    assert done.stderr == "fxteleport: error: --device mps: this machine has no usable Apple GPU\n"


# -- CUDA ------------------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cuda_is_bitwise(dtype: str) -> None:
    names = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet")
    done = call(*names, "--input-size", "3,64,64", "--exact", "--device", "cuda", "--dtype", dtype, "--json", "-")
    records = json.loads(done.stdout)
    assert done.exit_code == 0 and all(r["bitwise_equal"] for r in records)
    assert all(r["device_name"] == torch.cuda.get_device_name() for r in records)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("how", [["--amp"], ["--compile"], ["--amp", "--channels-last"]], ids=" ".join)
def test_cuda_in_other_ways(how: list[str]) -> None:
    assert call("test_resnet", "test_vit", "--input-size", "3,64,64", "--device", "cuda", *how).exit_code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
@pytest.mark.parametrize("option", ["--json", "--jsonl", "--junit"])
def test_a_full_disk_is_one_line_that_names_the_file(option: str) -> None:
    done = CliRunner().invoke(app, ["check", "test_resnet", option, "/dev/full"])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == ["fxteleport: error: cannot write '/dev/full': No space left on device"]


@pytest.mark.parametrize("seed", ["-1", str(1 << 63)])
def test_a_seed_that_no_generator_takes(seed: str) -> None:
    done = CliRunner().invoke(app, ["check", "test_resnet", "--seed", seed])
    assert done.exit_code == 2 and "--seed must not be negative" in done.stderr
