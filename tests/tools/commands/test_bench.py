"""`fxteleport bench`: the figures are there and what they say they are; their size is no test's business."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from fxteleport.tools.benchmarks import costs, growth, peers, published, timing
from fxteleport.tools.benchmarks.measures import OF_A_MODEL, table
from fxteleport.tools.benchmarks.timing import Figure, alternate, figure, ratio
from fxteleport.tools.cli import app
from fxteleport.tools.commands.bench import MEASURES


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["bench", *(str(a) for a in args)])


def test_a_figure_is_the_median_with_its_quartiles() -> None:
    assert figure([5.0, 1, 2, 4, 3]) == Figure(3, 2, 4)
    assert str(figure([0.005, 0.001, 0.003], 1e-3)) == "3.00 (2.00-4.00)"


def test_a_ratio_is_taken_turn_by_turn() -> None:
    assert ratio([2.0, 40, 6], [1.0, 20, 3]) == Figure(2, 2, 2)
    assert ratio(None, [1.0]) is None
    assert ratio([1.0], None) is None


def test_runs_alternate_and_the_first_round_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))

    def fails() -> None:
        ran.append("c")
        print("noise", file=sys.stderr)
        raise ValueError

    found = alternate([lambda: ran.append("a"), lambda: ran.append("b"), fails, None], 3)
    assert "".join(ran) == "abc" + "ab" * 3
    assert found == [[1.0] * 3, [1.0] * 3, None, None]


@pytest.mark.parametrize("measure", ["costs", "apply", "run", "peers"])
def test_one_model(measure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "peak_of", lambda what, spec: 1.0)  # starts a process for each
    done = call("test_resnet", "--measure", measure, "--repeats", 2, "--json", tmp_path / "j")
    assert done.exit_code == 0, done.output
    (found,) = json.loads((tmp_path / "j").read_text())
    assert found["model"] == "test_resnet"
    figures = [value for value in found.values() if isinstance(value, dict)]
    assert figures
    assert all(0 < f["low"] <= f["median"] <= f["high"] for f in figures)
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("| model |")


def test_a_batch_of_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int | None] = []
    monkeypatch.setitem(OF_A_MODEL, "run", lambda spec, wanted, repeats: given.append(wanted.batch) or Figure(1, 1, 1))
    assert call("test_resnet", "--measure", "run", "--batch", 5).exit_code == 0
    assert call("test_resnet", "--measure", "run").exit_code == 0
    assert given == [5, None]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("measure", ["apply", "run"])
def test_on_cuda(measure: str) -> None:
    assert call("test_resnet", "--measure", measure, "--repeats", 2, "--device", "cuda").exit_code == 0


def test_the_clock_waits_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU was asked for is waited for before the clock starts, and before it stops."""
    seen: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: seen.append("wait"))
    alternate([lambda: seen.append("run")], 1)
    assert seen == ["wait", "run", "wait"] * 2


def test_absent_peers_leave_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("brevitas", "torch_pruning", *sys.modules):
        if name.partition(".")[0] in ("brevitas", "torch_pruning"):
            monkeypatch.setitem(sys.modules, name, None)
    done = call("test_resnet", "--measure", "peers", "--repeats", 2)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().splitlines()[-1].endswith("| - | - | - | - |")


def test_a_peer_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Torch-Pruning, asked as the real one is."""

    class DependencyGraph:
        def build_dependency(self, model: nn.Module, example_inputs: torch.Tensor) -> DependencyGraph:
            assert example_inputs.shape == (2, 3)
            return self

        def get_all_groups(self) -> Any:
            return iter("abc")

    module: Any = ModuleType("torch_pruning")
    module.DependencyGraph = DependencyGraph
    monkeypatch.setitem(sys.modules, "torch_pruning", module)
    run, number = peers.found(peers.torch_pruning, iter([nn.Linear(3, 3)] * 2), torch.zeros(2, 3))
    assert number == 3
    assert run is not None
    assert run() == 3


def test_a_peer_that_fails_or_finds_nothing() -> None:
    def fails(model: nn.Module, x: torch.Tensor) -> int:
        raise RuntimeError

    for peer in (fails, lambda model, x: 0):
        assert peers.found(peer, iter([nn.Linear(3, 3)] * 2), torch.zeros(2, 3)) == (None, None)


@pytest.mark.parametrize("family", growth.FAMILIES)
def test_growth(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, _ = growth.FAMILIES[family]
    monkeypatch.setitem(growth.FAMILIES, family, (build, (8, 16, 32)))
    found = list(growth.growth(family, 2))
    assert [g.size for g in found] == [8, 16, 32]
    assert [g.exponent is None for g in found] == [True, True, False]
    assert found[0].neurons < found[1].neurons < found[2].neurons
    assert len(table(found).splitlines()) == 5


def test_an_exponent() -> None:
    assert growth._exponent([(10, 3.0), (100, 300.0), (1000, 30000.0)]) == pytest.approx(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a network"),
        (["resnet18", "--measure", "speed"], "--measure is one of"),
        (["resnet18", "--measure", "growth"], "makes its own networks"),
        (["resnet18", "--measure", "published"], "MODEL is one of mamba-130m"),
        (["no_such_net"], "there is no model"),
    ],
)
def test_wrong_calls(arguments: list[str], message: str) -> None:
    done = call(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.slow
def test_peaks() -> None:
    assert 0 < costs.peak_of("plan", "test_resnet") < 100
    assert 0.5 < costs.peak_of("rewrite", "resnet18") < 2


@pytest.mark.slow
def test_compiled() -> None:
    assert call("test_vit", "--measure", "compiled", "--repeats", 2).exit_code == 0


@pytest.mark.slow
def test_planning_grows_no_faster_than_the_network() -> None:
    """Ten times the layers or the neurons may take ten times as long, and a little more."""
    for family, (build, sizes) in growth.FAMILIES.items():
        (*_, last) = growth.growth(family, 3, largest=sizes[-2])
        assert last.exponent is not None
        assert last.exponent < 1.25, (family, build)


def test_every_measure_has_its_command() -> None:
    assert {*OF_A_MODEL, "growth", "published"} == set(MEASURES)


def test_published(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 2, "vocab_size": 50}  # fmt: skip
    monkeypatch.setitem(published.MODELS, "llama-3-70b", ("LlamaForCausalLM", "LlamaConfig", small))
    record = published.measure("llama-3-70b")
    assert record.error is None
    assert record.num_free and record.moved and record.parameters and record.capture_s


def test_a_published_model_without_its_library_has_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(published.MODELS, "none", ("NoSuchModel", "NoSuchConfig", {}))
    assert published.published("none").error
