"""The command line: what it prints, writes and exits with."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

import fxteleport as ft
from fxteleport.tools.cli import app

SMALL = ["test_resnet", "--input-size", "3,32,32"]
RECORD = (
    "model mode norm_stats norms device dtype exact landscape cob_range seed passed vacuous bitwise_equal max_abs"
    " max_rel first_difference num_free moved opaque conditions specialized nodes parameters seconds tolerance rounding"
    " execution against batch training channels_last images device_name verdict bound float64 constant_outputs"
    " different_output compared_tensors wrong_parameter exercised epsilon_gap"
).split()
COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
DOCUMENTS = "".join(p.read_text() for p in (Path(__file__).parents[2] / "docs").glob("*.md"))
FACTORY = """
import torch
from torch import nn
def raises(): raise ValueError("no luck\\ntoday")
def nothing(): return None
def quantised(): return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 3)))
class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)
        nn.init.zeros_(self.a.weight)
        nn.init.zeros_(self.a.bias)
    def forward(self, x): return self.a(x)
"""


def call(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(FACTORY)
    return tmp_path / "nets.py"


def fits(text: str) -> bool:
    """80 columns and no control characters."""
    return all(len(line) <= 80 and line.isprintable() for line in text.splitlines())


# -- the documents ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_documents_name_every_option(name: str) -> None:
    options = [o for p in COMMANDS[name].params for o in (*p.opts, *p.secondary_opts) if o.startswith("--")]
    assert options and [o for o in options if o not in DOCUMENTS] == []


def test_the_documents_name_every_key() -> None:
    done = call("teleport", *SMALL, "--json", "-")
    keys = set(json.loads(done.stdout))
    assert set(RECORD) < keys and [k for k in sorted(keys) if not re.search(rf"\b{k}\b", DOCUMENTS)] == []


# -- teleport --------------------------------------------------------------------------------------------


def test_teleport_exactly() -> None:
    done = call("teleport", *SMALL, "--exact")
    assert done.exit_code == 0, done.output
    assert "equal to the last bit at" in done.stdout
    assert "re-drawn at random" in done.stdout
    assert fits(done.stdout) and done.stderr == ""


def test_teleport_writes_a_network(tmp_path: Path) -> None:
    done = call("teleport", *SMALL, "--mode", "weights", "-o", tmp_path / "net", "--json", "-")
    found = json.loads(done.stdout)  # and nothing else was printed
    assert done.exit_code == 0 and found["passed"]
    assert [Path(f).name for f in found["files"]] == ["net.safetensors", "net.cob.safetensors", "net.json"]
    assert ft.load(tmp_path / "net")(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
    again = call("teleport", *SMALL, "--checkpoint", tmp_path / "net.safetensors", "--json", "-")
    assert again.exit_code == 0 and json.loads(again.stdout)["passed"]


def test_the_same_seed_writes_the_same_network(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert call("teleport", *SMALL, "-o", tmp_path / name).exit_code == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()  # every byte


def test_strict_writes_nothing_that_rests_on_conditions(tmp_path: Path) -> None:
    asked = ("teleport", "test_vit", "--input-size", "3,160,160", "-o", tmp_path / "net")
    done = call(*asked, "--strict")
    assert done.exit_code == 2 and "strict" in done.stderr and not list(tmp_path.iterdir())
    done = call(*asked, "--json", tmp_path / "facts.json")
    found = json.loads((tmp_path / "facts.json").read_text())["conditions"]
    assert found and set(found[0]) == {"kind", "node", "path", "source", "value"}
    assert done.exit_code == 0 and f"rests on       {len(found)} condition" in done.stdout
    done = call("teleport", *SMALL, "--strict")
    assert done.exit_code == 0 and "rests on       nothing" in done.stdout


def test_a_vacuous_check_fails_and_writes_nothing(file: Path, tmp_path: Path) -> None:
    done = call("teleport", f"{file}:Constant", "--input-size", "3", "-o", tmp_path / "net")
    assert done.exit_code == 1
    assert "proves nothing" in done.stdout and "Nothing was written" in done.stdout
    assert not list(tmp_path.glob("net.*"))
    assert call("teleport", f"{file}:Constant", "--input-size", "3", "--redraw").exit_code == 0


# -- check -----------------------------------------------------------------------------------------------


def test_check_all(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    done = call("check", *SMALL, "--exact", "--mode", "all", "--norm-stats", "all", "--json", path)
    records = json.loads(path.read_text())
    assert done.exit_code == 0, done.output
    assert "5 of 5 checks passed" in done.stdout and fits(done.stdout)
    assert [list(r) for r in records] == [RECORD] * 5
    assert all(r["passed"] and r["bitwise_equal"] and r["max_abs"] == 0 for r in records)
    assert list(records[0]["seconds"]) == ["capture", "constrain", "solve", "rewrite", "verify"]
    assert {(r["mode"], r["norm_stats"]) for r in records} == {
        ("full", "fixed"), ("full", "rescaled"), ("full", "wrapped"), ("weights", "fixed"), ("weights", "rescaled"),
    }  # fmt: skip


def test_check_goes_on_after_a_model_that_does_not_run(file: Path) -> None:
    done = call("check", f"{file}:raises", "test_resnet", "--input-size", "3,32,32", "--json", "-")
    first, second = json.loads(done.stdout)
    assert done.exit_code == 2  # wrong input, not a failed check
    assert not first["passed"] and "no luck today" in first["error"]
    assert set(first) == {*RECORD, "error"}
    assert second["passed"] and "error" not in second


def test_check_runs_nothing_for_an_unknown_name(tmp_path: Path) -> None:
    done = call("check", *SMALL, "no_such_model", "--json", tmp_path / "x.json")
    assert done.exit_code == 2 and done.stdout == ""
    assert not (tmp_path / "x.json").exists()


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
@pytest.mark.parametrize(
    ("sent", "status", "said"), [(signal.SIGTERM, 143, ""), (signal.SIGINT, 130, "fxteleport: interrupted\n")]
)
def test_a_command_that_is_ended_takes_its_workers_along(
    sent: signal.Signals, status: int, said: str, tmp_path: Path
) -> None:
    """A kill is sent to the command alone, Ctrl-C by a terminal to its workers too."""
    rows, deadline = tmp_path / "rows.csv", time.monotonic() + 60
    command = [sys.executable, "-m", "fxteleport", "coverage", "--filter", "test_*", "--output", str(rows)]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    pipes["preexec_fn"] = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # ignored in the background
    with subprocess.Popen(command, start_new_session=True, **pipes) as running:
        while time.monotonic() < deadline and not (rows.exists() and rows.read_text().count("\n") > 1):
            time.sleep(0.1)
        os.kill(running.pid, sent) if sent == signal.SIGTERM else os.killpg(running.pid, sent)
        assert running.communicate(timeout=60)[1] == said
        assert running.returncode == status
    for _ in range(100):
        try:
            os.killpg(running.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(running.pid, 9)
    pytest.fail("its workers still run")


# -- wrong calls and inputs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["resnet81"], "did you mean resnet18"),
        (["{file}:raises", "--input-size", "3"], "no luck today"),
        (["{file}:nothing", "--input-size", "3"], "not an nn.Module"),
        (["{file}:quantised", "--input-size", "3"], "quantised"),
        (["torchvision/quantized_resnet18"], "quantised"),
        (["test_resnet", "--input-size", "5"], "does not run on these inputs ((2, 5) float32): in the"),
        (["test_resnet", "--input-size", "3,x,4"], "--input-size takes positive numbers"),
        (["test_resnet", "--input-size", "3,0,4"], "--input-size takes positive numbers"),
        ([*SMALL, "--cob-range", "1.5"], "0 <= cob_range < 1"),
        ([*SMALL, "--cob-range", "nan"], "positive number"),
        ([*SMALL, "--cob-range", "0"], "draws the identity"),
        ([*SMALL, "--cob-range", "0", "--landscape", "log"], "draws the identity"),
        ([*SMALL, "--landscape", "flat"], "--landscape is one of"),
        ([*SMALL, "--model-kwargs", "10"], "takes NAME=VALUE"),
        ([*SMALL, "--model-kwargs", "nosuch=1"], "unexpected keyword argument 'nosuch'"),
        (["swin_base"], "did you mean swin_base_patch4_window7_224"),
        (["{file}:rises", "--input-size", "3"], "did you mean raises"),
        (["{file}:xyz", "--input-size", "3"], "has no 'xyz': it has raises, nothing, quantised, Constant"),
        ([*SMALL, "--mode", "half"], "--mode is one of"),
        ([*SMALL, "--mode", "weights", "--norm-stats", "wrapped"], "use rescaled"),
        ([*SMALL, "--dtype", "int8"], "--dtype is one of"),
        ([*SMALL, "--device", "tpu9"], "--device knows"),
        ([*SMALL, "--seed", "-1"], "--seed"),
        ([*SMALL, "--seed", "x"], "--seed"),
        ([*SMALL, "--checkpoint", "{tmp}/absent.pt"], "no file"),
        ([*SMALL, "--checkpoint", "{tmp}/corrupt.safetensors"], "not a readable safetensors file"),
        ([*SMALL, "--checkpoint", "{tmp}/foreign.pt"], "not a checkpoint of this model"),
        ([*SMALL, "--output", "{tmp}/no/where"], "no folder"),
        ([*SMALL, "--json", "{tmp}/no/where.json"], "cannot write"),
        ([], "Missing argument"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_wrong_input(args: list[str], message: str, file: Path, tmp_path: Path) -> None:
    (tmp_path / "corrupt.safetensors").write_bytes(b"garbage")
    torch.save({"w": torch.ones(1)}, tmp_path / "foreign.pt")
    before = sorted(tmp_path.rglob("*"))
    done = call("teleport", *(a.format(file=file, tmp=tmp_path) for a in args))
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("fxteleport: error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr
    assert [p for p in sorted(tmp_path.rglob("*")) if p not in before and "__pycache__" not in str(p)] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", ["teleport", "check", "inspect", "bench"])
def test_cuda_where_there_is_none(command: str) -> None:
    done = call(command, *(SMALL[:1] if command == "bench" else SMALL), "--device", "cuda")
    assert done.exit_code == 2
    assert done.stderr == "fxteleport: error: --device cuda: this machine has no usable CUDA device\n"


@pytest.mark.parametrize("command", ["teleport", "check", "inspect"])
def test_help_has_an_example(command: str) -> None:
    done = call(command, "--help")
    assert done.exit_code == 0 and f"Example: fxteleport {command} resnet18" in done.stdout


def test_help_with_one_dash() -> None:
    assert call("-h").stdout == call("--help").stdout and call("check", "-h").stdout == call("check", "--help").stdout


@pytest.mark.parametrize("command", ["teleport", "check"])
def test_the_models_own_arguments(command: str, file: Path) -> None:
    """In timm's spelling, several behind one option."""
    given = ["--model-kwargs", "num_classes=10", "in_chans=1", "--input-size", "1,32,32", "--json", "-"]
    done = call(command, "test_resnet", *given)
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and (found if command == "teleport" else found[0])["model"] == (
        "test_resnet(num_classes=10, in_chans=1)"
    )
    done = call(command, f"{file}:Constant", "--model-kwargs", "width=3", "--input-size", "3")
    assert done.exit_code == 2 and "unexpected keyword argument 'width'" in done.stdout + done.stderr


def test_a_network_with_arguments_is_loaded_into_one(tmp_path: Path) -> None:
    """No argument of a constructor is read from a file: it could name another file."""
    assert call("teleport", *SMALL, "--model-kwargs", "num_classes=10", "-o", tmp_path / "net").exit_code == 0
    with pytest.raises(ft.CheckpointError, match=r"test_resnet\(num_classes=10\).*pass model= to load"):
        ft.load(tmp_path / "net")
    import timm

    model = timm.create_model("test_resnet", num_classes=10)
    assert ft.load(tmp_path / "net", model=model)(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_what_is_not_installed_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxteleport.tools.options.outputs.find_spec", lambda name: None)
    done = call("inspect", *SMALL, "--explore")
    assert done.exit_code == 2 and "pip install 'fxteleport[explorer]'" in done.stderr
    done = call("inspect", *SMALL, "--explorer", "graph.txt")
    assert done.exit_code == 2 and "reads .json files" in done.stderr


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("te", "teleport"), ("check x --landscape pos", "positive"), ("check --model-kw", "--model-kwargs")],
)
def test_a_shell_completes(typed: str, completed: str) -> None:
    words = f"fxteleport {typed}"
    asked = {"_FXTELEPORT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    code = "import sys; sys.argv = ['fxteleport']; from fxteleport.tools.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, timeout=120
    )
    assert run.stdout.split() == [completed], run.stderr


def test_version() -> None:
    done = call("--version")
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{ft.__version__}\n", "")


WITHOUT_TORCH = """
import sys
from fxteleport.tools.cli import app
for line in sys.stdin.read().splitlines():
    try:
        app(line.split())
    except SystemExit as end:
        assert end.code == (0 if "help" in line or "version" in line else 2), (line, end.code)
    heavy = {"torch", "numpy", "scipy", "matplotlib", "timm"} & set(sys.modules)
    assert not heavy, (line, heavy)
"""


def test_help_and_wrong_calls_import_no_torch() -> None:
    wrong = ["", "nosuch", "check --nosuch", "teleport", "teleport resnet18 --seed x", "teleport resnet18 --mode half",
             "teleport resnet18 --cob-range 1.5", "check resnet18 --jobs 0", "check x --amp --dtype bfloat16",
             "inspect resnet18 --plot weights", "inspect resnet18 --plot nosuch --output a.png", "bench",
             "bench resnet18 --measure speed", "paper nosuch", "paper micro --lr 0",
             "coverage --norm-stats wrapped"]  # fmt: skip
    lines = ["--help", "--version", *(f"{name} --help" for name in COMMANDS), *wrong]
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], input="\n".join(lines), capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr


def test_as_a_module() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "fxteleport", "teleport", "resnet81"], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("fxteleport: error: there is no model 'resnet81'") and run.stderr.count("\n") == 1
