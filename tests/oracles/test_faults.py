"""What can go wrong around a teleportation, and what happens then: the table of docs/reliability.md."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.atomic_files import write_bytes
from fxteleport.tensor_files import read_tensors, write_tensors
from fxteleport.tools.models import load
from fxteleport.tools.survey import network_survey, rows_file
from fxteleport.tools.survey.row import Terms

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def mlp() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    ft.randomize(model)
    return model.eval()


def network(model: nn.Module | None = None) -> Any:
    plan = ft.plan(mlp() if model is None else model, X)
    return plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))


# -- writing ---------------------------------------------------------------------------------------------

WRITER = """
import sys, torch
from fxteleport.tensor_files import write_tensors
number = 0
while True:
    number += 1
    write_tensors(sys.argv[1], {"x": torch.full((300_000,), float(number))}, {"number": str(number)})
    print(number, flush=True)
"""


def test_killed_while_writing(tmp_path: Path) -> None:
    """A process that overwrites a file all the time is killed at three moments: the file is whole each time."""
    path = tmp_path / "x.safetensors"
    for moment in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline()
        time.sleep(0.003 * moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        tensors, marks = read_tensors(path)
        assert torch.equal(tensors["x"], torch.full((300_000,), float(marks["number"])))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_disk_full(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that was there stays, nothing else does, and the error says what is wrong."""
    files = ft.save(tmp_path / "net", network(), "mlp")
    before = {f: f.read_bytes() for f in files}

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ft.CheckpointError, match=os.strerror(number)):
        ft.save(tmp_path / "net", network(), "mlp")
    assert {f: f.read_bytes() for f in tmp_path.iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_device_without_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real ENOSPC, in the middle of writing."""
    import tempfile

    def full(**_: object) -> tuple[int, str]:
        return os.open("/dev/full", os.O_WRONLY), "/dev/full"

    monkeypatch.setattr(tempfile, "mkstemp", full)
    monkeypatch.setattr(os, "unlink", lambda path: None)
    with pytest.raises(ft.CheckpointError, match="No space left"):
        write_bytes(tmp_path / "x", b"0" * 100_000)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ft.CheckpointError, match="Permission denied"):
            write_tensors(tmp_path / "x.safetensors", {"x": X}, {})
    finally:
        tmp_path.chmod(0o700)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a read-only folder, for root too."""
    import tempfile

    def refuse(**_: object) -> tuple[int, str]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(ft.CheckpointError, match="Permission denied"):
        ft.save(tmp_path / "net", network(), "mlp")
    assert not list(tmp_path.iterdir())


def test_rows_of_a_survey_that_cannot_be_written(tmp_path: Path) -> None:
    row = network_survey.survey("test_resnet", Terms(seed=0))
    with pytest.raises(ft.CheckpointError, match="cannot write"):
        rows_file.append_row(tmp_path / "no" / "rows.csv", row)


# -- reading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".cob.safetensors", ".json"])
def test_truncated_and_flipped(suffix: str, tmp_path: Path) -> None:
    """At 40 places each: an error of the project's own, or (a flipped weight) the same shapes."""
    model = mlp()
    ft.save(tmp_path / "net", network(model), "mlp")
    file = tmp_path / f"net{suffix}"
    data = file.read_bytes()
    for place in range(0, len(data), max(1, len(data) // 40)):
        file.write_bytes(data[:place])
        with pytest.raises(ft.TeleportError):
            ft.load(tmp_path / "net", model)
        file.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        try:
            assert ft.load(tmp_path / "net", model)(X).shape == (4, 3)
        except ft.TeleportError as error:
            assert str(error)
    file.write_bytes(data)
    assert ft.load(tmp_path / "net", model)(X).shape == (4, 3)


# -- values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(value: float) -> None:
    """They are moved as they are; where no output is finite, a check proves nothing: it says so and fails."""
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, 0] = value
    teleported = network(model)
    assert torch.equal(teleported(X).isnan(), model(X).isnan())
    report = ft.verify(model, teleported, X)
    finite = bool(model(X).isfinite().any())
    assert (report.vacuous, report.passed) == (not finite, finite)


@pytest.mark.parametrize(
    ("build", "x"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 0), nn.ReLU(), nn.Linear(0, 3)), X),
        (lambda: nn.Sequential(nn.Linear(0, 4), nn.ReLU(), nn.Linear(4, 3)), torch.zeros(2, 0)),
        (mlp, torch.zeros(0, 6)),
    ],
    ids=["no neurons", "no inputs", "no examples"],
)
def test_zero_sizes(build: Callable[[], nn.Module], x: Tensor) -> None:
    model = build()
    plan = ft.plan(model, x)
    result = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert torch.equal(result(x), model(x))


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("build", [nn.Identity, nn.Sequential, nn.ReLU, nn.Flatten])
def test_no_parameters(build: Callable[[], nn.Module], mode: str, tmp_path: Path) -> None:
    model = build()
    plan = ft.plan(model, X, mode=mode)
    assert plan.num_free == 0
    assert plan.moved == 0.0
    teleported = plan.rewrite(plan.sample(seed=0))
    assert ft.verify(model, teleported, X).passed
    ft.save(tmp_path / "net", teleported, "nothing")
    assert torch.equal(ft.load(tmp_path / "net", model)(X), model(X))


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_a_single_layer(mode: str) -> None:
    """Its inputs and its outputs are the network's: nothing is free."""
    model = nn.Linear(6, 3)
    plan = ft.plan(model, X, mode=mode)
    assert plan.num_free == 0
    assert ft.verify(model, plan.rewrite(plan.identity()), X).passed


# -- sizes -----------------------------------------------------------------------------------------------


def deep(layers: int) -> nn.Sequential:
    return nn.Sequential(*(part for _ in range(layers // 2) for part in (nn.Linear(4, 4), nn.ReLU())))


def check_deep(layers: int) -> None:
    model = deep(layers)
    x = torch.randn(2, 4)
    plan = ft.plan(model, x)
    assert plan.num_free == 4 * (layers // 2) - 4
    assert torch.equal(plan.rewrite(plan.sample(exact=True, seed=0))(x), model(x))


def test_a_thousand_layers() -> None:
    check_deep(1000)


@pytest.mark.slow
def test_ten_thousand_layers() -> None:
    check_deep(10_000)


def check_wide(channels: int) -> None:
    model = nn.Sequential(nn.Linear(2, channels), nn.ReLU(), nn.Linear(channels, 1))
    plan = ft.plan(model, torch.randn(2, 2))
    assert plan.num_free == channels
    report = ft.verify(model, plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0)), torch.randn(2, 2))
    assert report.passed
    assert report.bitwise_equal


def test_a_hundred_thousand_channels() -> None:
    check_wide(100_000)


@pytest.mark.slow
def test_two_million_channels() -> None:
    check_wide(2_000_000)


def nested(depth: int) -> nn.Module:
    model: nn.Module = nn.Linear(6, 6)
    for _ in range(depth):
        model = nn.Sequential(model)
    return model


class Endless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self(self.linear(x))


@pytest.mark.parametrize("model", [nested(2000), Endless()], ids=["too deep", "endless"])
def test_recursion(model: nn.Module) -> None:
    with pytest.raises(ft.CaptureError, match="recursion limit"):
        ft.plan(model, X)
    assert ft.plan(mlp(), X).num_free == 8  # and nothing is left behind


def test_nested_as_deep_as_it_runs() -> None:
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(1000)  # Python's own: torch's compiler raises it, where a test before this one used it
        with pytest.raises(ft.CaptureError, match=r"sys\.setrecursionlimit"):
            ft.plan(nested(300), X)
        sys.setrecursionlimit(6000)
        assert ft.plan(nested(300), X).num_free == 0
    finally:
        sys.setrecursionlimit(limit)


# -- use -------------------------------------------------------------------------------------------------


def test_plans_in_threads() -> None:
    model, passed = mlp(), []

    def work(seed: int) -> None:
        plan = ft.plan(model, X)
        passed.append(ft.verify(model, plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=seed)), X).passed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passed == [True] * 16


def test_applied_twice() -> None:
    """Two teleportations: the function stays, and both inverses bring the weights back bit for bit."""
    model = mlp()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    y = model(X)
    plan = ft.plan(model, X, mode="weights")
    cob = plan.sample(0.9, exact=True, seed=0)
    for _ in range(2):
        plan.apply_(cob)
    assert torch.equal(model(X), y)
    for _ in range(2):
        plan.apply_(cob.inverse())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def replace(at: int, module: nn.Module) -> Callable[[nn.Sequential], None]:
    return lambda model: model.__setitem__(at, module)


CHANGES: dict[str, tuple[Callable[[nn.Sequential], Any], str]] = {
    "another activation": (replace(1, nn.Tanh()), "'1' was a ReLU and is a Tanh"),
    "another layer": (replace(1, nn.Linear(8, 8)), "'1' was a ReLU and is a Linear"),
    "a layer more": (lambda model: model.append(nn.Linear(3, 3)), "'3' is new"),
    "a layer less": (lambda model: model.pop(2), "'2' is gone"),
    "no bias": (lambda model: setattr(model[0], "bias", None), "'0' holds other parameters"),
    "a hook": (lambda model: model[1].register_forward_hook(lambda m, a, out: out + 1), "'1' has other forward hooks"),
    "another width": (replace(0, nn.Linear(6, 9)), "plan the model again"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("use", ["rewrite", "apply_"])
def test_a_model_that_changed_since_its_plan(name: str, use: str) -> None:
    model = mlp()
    plan = ft.plan(model, X, mode="weights")
    change, message = CHANGES[name]
    change(model)
    with pytest.raises(ft.ModelError, match=message):
        getattr(plan, use)(plan.sample(seed=0))


def test_a_model_that_learned_since_its_plan() -> None:
    """New values, and a layer of the same kind, are what a plan is for."""
    model = mlp()
    plan = ft.plan(model, X)
    with torch.no_grad():
        model[0].weight.mul_(3)
    model[2] = nn.Linear(8, 3)
    assert ft.verify(model, plan.rewrite(plan.sample(exact=True, seed=0)), X).passed


def test_a_checkpoint_of_a_model_whose_argument_is_called_input(tmp_path: Path) -> None:
    """Every nn.Sequential: fx gives a node of that name another, since Python has a function `input`."""
    model = mlp()
    teleported = network(model)
    ft.save(tmp_path / "net", teleported, "mlp")
    assert torch.equal(ft.load(tmp_path / "net", model)(X), teleported(X))
    assert ft.verify(model, teleported, input=X).passed


def test_a_checkpoint_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ft.CheckpointError, match="there is no file"):
        load.load_state(mlp(), tmp_path)
