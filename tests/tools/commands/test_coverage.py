"""`fxteleport coverage`: the survey of one network, the file, the limits, the tables, and the committed result."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fxteleport.models import zoo
from fxteleport.passes.errors import CheckpointError, InputError
from fxteleport.tools.cli import app
from fxteleport.tools.models.skip_init import Unfilled
from fxteleport.tools.survey.building import accepts
from fxteleport.tools.survey.network_survey import survey
from fxteleport.tools.survey.row import Row, Terms
from fxteleport.tools.survey.rows_file import append_row, read_rows, write_rows
from fxteleport.tools.survey.scheduling import surveyed
from fxteleport.tools.survey.selection import chosen
from fxteleport.tools.survey.tables import by_family, by_library, document, growth, summary

RECORDED = Path(__file__).parents[3] / "docs" / "coverage.csv"


def row(name: str = "a", **facts: object) -> Row:
    return replace(Row(name, "timm", "family"), **facts)  # type: ignore[arg-type]


# -- one network -----------------------------------------------------------------------------------------


def test_a_survey_has_all_the_facts() -> None:
    found = survey("test_resnet", Terms(budget=0.01))
    assert found.error is None
    assert (found.exact, found.captured, found.planned) == (True, True, True)
    assert found.size == "3x64x64"
    assert found.same_graph is True  # the graph of the network's own 160 x 160
    assert found.other is not None
    ran = ["2x3x48x48 exact", "1x3x32x64 exact", "1x3x64x32 exact"]
    assert found.other.split("; ") == [f"{way} {shape}" for way in ("full", "weights", "checkpoint") for shape in ran]
    assert found.free is not None and found.free_weights is not None
    assert found.free >= found.free_weights > 0


def test_a_network_of_fixed_size_is_made_for_the_smaller_one() -> None:
    found = survey("test_vit", Terms(budget=0.01))
    assert (found.exact, found.same_graph) == (True, False)


def test_memory_decides_the_number_format() -> None:
    size = 371240  # test_vit's parameters
    assert survey("test_vit", Terms(memory=size * 8)).dtype == "bfloat16"
    planned = survey("test_vit", Terms(memory=size * 3))
    assert (planned.planned, planned.exact, planned.dtype) == (True, None, None)
    assert planned.free == survey("test_vit", Terms()).free


def test_what_goes_wrong_is_in_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **settings: object) -> None:
        raise ValueError("no luck today")

    monkeypatch.setattr("fxteleport.tools.survey.network_survey.plan", broken)
    found = survey("test_resnet", Terms())
    assert found.error == "no luck today"
    assert (found.planned, found.exact) == (None, None)


@pytest.mark.parametrize("way", ["full", "weights", "checkpoint"])
def test_another_result_on_another_input_is_a_failure(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["exact"] * 3 * ["full", "weights", "checkpoint"].index(way) + ["differs"] + ["exact"] * 9)
    monkeypatch.setattr("fxteleport.tools.survey.other_inputs.outcome", lambda *args: next(answers))
    found = survey("test_resnet", Terms(budget=0.01))
    assert found.exact is False
    assert str(found.error).startswith(f"{way} 2x3x") and str(found.error).endswith("differs")


def test_accepts() -> None:
    assert accepts(zoo.Built(nn.Conv2d(3, 4, 3), ((3, 8, 8),)))
    assert not accepts(zoo.Built(nn.Conv2d(3, 4, 3), ((3, 2, 2),)))


def test_unfilled_leaves_parameters_alone_and_draws_buffers() -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((1000,), 7.0))
            self.register_buffer("table", torch.zeros(1000).normal_())
            nn.init.normal_(self.weight)

    with Unfilled():
        model = Draws()
    assert bool((model.weight == 7).all())
    assert 0.5 < float(model.get_buffer("table").std()) < 2


# -- the file --------------------------------------------------------------------------------------------


def test_rows_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = [
        row("a", parameters=3, exact=True, moved=0.25, opaque=0, error='said "no", and\nmore'),
        row("b"),
        row("c", exact=False, captured=True, other="2x3x8x8 exact", seconds=1.5),
    ]
    write_rows(path, rows[:2])
    append_row(path, rows[2])
    assert [asdict(r) for r in read_rows(path)] == [asdict(r) for r in rows]


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("name,size\na,1\n")
    with pytest.raises(CheckpointError, match="other columns"):
        read_rows(path)


def test_choice_of_networks() -> None:
    assert chosen("test_resnet*", None, "timm") == ["test_resnet"]
    assert chosen("resnet18", None, "all") == ["resnet18", "torchvision/resnet18"]
    assert all(zoo.family(n) == "mlp_mixer" for n in chosen("*", "mlp_mixer", "timm"))
    with pytest.raises(InputError, match="did you mean"):
        chosen("*", "mlp_mixr", "all")


# -- limits ----------------------------------------------------------------------------------------------


def test_a_network_that_takes_too_long_is_a_row() -> None:
    (found,) = surveyed(["test_resnet"], Terms(), 1, 0.05)
    assert found.error == "took longer than 0.05 s"
    assert found.exact is None


def test_a_network_that_needs_too_much_memory_is_a_row() -> None:
    (found,) = surveyed(["vit_huge_patch14_224"], Terms(memory=2e9, budget=0.1), 1, 300)
    assert found.exact is None
    assert found.planned or found.error


def test_resuming(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    call = ["coverage", "--library", "timm", "--output", str(path), "--budget", "0.01", "--jobs", "1", "--filter"]
    first = CliRunner().invoke(app, [*call, "test_resnet"])
    assert first.exit_code == 0, first.output
    kept = path.read_text().splitlines()[1]
    second = CliRunner().invoke(app, [*call, "test_[rv][ei][st]*[t2]"])  # another one
    assert second.exit_code == 0, second.output
    assert kept in path.read_text().splitlines()
    assert {r.model for r in read_rows(path)} == set(chosen("test_[rv][ei][st]*[t2]", None, "timm"))
    assert all(r.exact for r in read_rows(path))
    text = path.with_suffix(".md").read_text()
    assert f"| timm |{5 * f' {len(read_rows(path))} |'}"[:-4] in text


# -- tables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.5, 1.0, 1.15])
def test_growth_is_the_exponent(power: float) -> None:
    rows = [row(nodes=n, plan_s=1e-3 * n**power) for n in (10, 100, 300, 2000)]
    assert growth(rows) == pytest.approx(power)


def test_every_row_is_counted_once() -> None:
    rows = [
        row("a", exact=True, planned=True, captured=True, dtype="float32"),
        row("b", error="x"),
        row("c", planned=True),
    ]
    rows.append(replace(rows[0], model="torchvision/d", library="torchvision"))
    assert sum(map(len, by_family(rows).values())) == len(rows) == len(by_library(rows)["all"])
    assert summary(rows).row_count == 2 + 3
    text = document(rows, "the command")
    for name in ("| b | x |", "| c | planned only |", "the command"):
        assert name in text


# -- the result in the repository ------------------------------------------------------------------------


@pytest.mark.skipif(not RECORDED.exists(), reason="docs/coverage.csv is not here")
@pytest.mark.parametrize(("library", "version"), [("timm", "1.0.31"), ("torchvision", "0.29.1")])
def test_the_recorded_rows_are_the_installed_networks(library: str, version: str) -> None:
    if importlib.metadata.version(library).partition("+")[0] != version:
        pytest.skip(f"the rows are of {library} {version}")
    assert [r.model for r in read_rows(RECORDED) if r.library == library] == sorted(zoo.names(library))


_LARGE = 250  # nodes: what has more takes minutes all together, and is checked on request


def smallest_of_each_family() -> list[Any]:
    best: dict[str, Row] = {}
    for found in read_rows(RECORDED) if RECORDED.exists() else []:
        if found.library == "timm" and found.parameters is not None:
            known = best.get(found.family)
            if known is None or found.parameters < (known.parameters or 0):
                best[found.family] = found
    rows = sorted(best.values(), key=lambda r: r.model)
    return [pytest.param(r.model, marks=[pytest.mark.slow] if (r.nodes or 0) > _LARGE else []) for r in rows]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", smallest_of_each_family())
def test_the_smallest_of_each_family_is_exact(name: str) -> None:
    if name not in zoo.names("timm"):
        pytest.skip("this version of timm does not have it")
    found = survey(name, Terms(budget=0.3))
    assert found.error is None
    assert found.exact, found
    assert found.captured


def test_a_vision_transformer_of_torchvision_is_run_at_the_size_it_was_built_for() -> None:
    """Not at that of its published weights; a size that was asked for is kept, whether it can take it or not."""
    with torch.device("meta"):
        assert zoo.build("torchvision/vit_h_14").shapes == ((3, 224, 224),)
        assert zoo.build("torchvision/vit_b_16", (3, 112, 112)).shapes == ((3, 112, 112),)
        assert zoo.build("torchvision/vit_b_16", (3, 96, 112)).shapes == ((3, 96, 112),)
