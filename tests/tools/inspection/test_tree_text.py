"""The module tree: rows add up, lines hang within their width, and nothing is told twice."""

from __future__ import annotations

import io

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text
from torch import nn

import fxteleport as ft
from fxteleport.tools.inspection.module_rows import Row, module_rows
from fxteleport.tools.inspection.plan_view import Reading
from fxteleport.tools.inspection.tree_text import Hanging, TreeView, look, percent


def shown(renderable: object, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, no_color=True, highlight=False).print(renderable)
    return out.getvalue()


@pytest.fixture(scope="module", params=["test_resnet", "test_vit"])
def reading(request: pytest.FixtureRequest) -> Reading:
    model = timm.create_model(request.param).eval()
    return Reading(ft.plan(model, torch.zeros(2, *model.default_cfg["input_size"])))


@pytest.fixture(scope="module")
def row(reading: Reading) -> Row:
    return module_rows(reading)


def test_rows_add_up(reading: Reading, row: Row) -> None:
    plan = reading.plan
    assert row.values == plan.num_free
    assert row.parameters == sum(p.numel() for p in plan.captured.model.parameters())
    assert row.moved == pytest.approx(plan.moved * row.parameters)
    for part in row.walk():
        assert part.parameters >= sum(p.parameters for p in part.parts)
        assert part.values >= sum(p.values for p in part.parts)


def test_every_scaled_parameter_is_in_its_module(reading: Reading, row: Row) -> None:
    told = {f"{r.path}.{name}".lstrip("."): uses for r in row.walk() for name, uses in r.tensors}
    for name, _ in reading.plan.captured.model.named_parameters():
        assert told[name] == reading.tensors[name]


def test_every_wrapped_operation_is_told_where_it_is(reading: Reading, row: Row) -> None:
    told = {n.node for r in row.walk() for n in r.notes if n.text.startswith("wrapped")}
    assert told == set(reading.wrapped)


def test_the_whole_tree_introduces_every_group_that_flows_once(reading: Reading, row: Row) -> None:
    view = TreeView(reading.groups, every=True)
    text = " ".join(shown(view.tree(row, Text("net"))).replace("│", " ").split())
    for number in view.introduced:
        assert text.count(f"#{number} (") == 1
    made = {u.group for r in row.walk() for u in (*r.into[:3], *r.out[:3])}
    assert made <= view.introduced


def test_what_is_folded_is_alike() -> None:
    twins = [nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(3)]
    plan = ft.plan(nn.Sequential(nn.Linear(4, 4), *twins, nn.Sequential(nn.Linear(4, 4))), torch.zeros(2, 4))
    found = module_rows(Reading(plan))
    assert len({look(p, plan.groups) for p in found.parts[1:4]}) == 1
    assert look(found.parts[4], plan.groups) != look(found.parts[3], plan.groups)
    text = shown(TreeView(plan.groups).tree(found, Text("net")))
    assert "2, 3 Sequential: each like 1; 8 free values" in text and "4 Sequential: like" not in text
    assert "like" not in shown(TreeView(plan.groups, every=True).tree(found, Text("net")))


def test_a_pinned_twin_is_not_alike() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.twins = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for twin in self.twins:
                x = twin(self.first(x) if twin is self.twins[0] else x)
            return x

    plan = ft.plan(Net(), torch.zeros(2, 4))  # the last one's output is the network's
    text = shown(TreeView(plan.groups).tree(module_rows(Reading(plan)), Text("net")))
    assert "1 Sequential: like 0; 4 free values" in text and "2 Sequential: 20 parameters" in text


def test_depth_folds_modules(reading: Reading, row: Row) -> None:
    text = shown(TreeView(reading.groups, depth=1).tree(row, Text("net")))
    assert "folded)" in text
    assert all(line.startswith(("net", "    ", "├── ", "│   ", "└── ")) for line in text.splitlines())
    assert "│   ├" not in text


@settings(max_examples=50)
@given(
    st.lists(st.text("abc#.", min_size=1, max_size=30), min_size=1, max_size=30), st.integers(0, 8), st.integers(0, 8)
)
def test_hanging_lines_keep_every_word(words: list[str], indent: int, hang: int) -> None:
    lines = shown(Hanging(Text(" ".join(words)), indent, hang), 60).splitlines()
    assert [w for line in lines for w in line.split()] == words
    assert all(len(line) <= 60 and line == line.rstrip() for line in lines)
    assert lines[0].startswith(" " * indent + words[0][:1])
    assert all(line.startswith(" " * (indent + hang)) for line in lines[1:])


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [(1, 1, "100%"), (0, 5, "0%"), (99999, 100000, ">99.99%"), (1, 100000, "<0.01%"), (1, 3, "33.33%"), (1, 2, "50%")],
)
def test_only_all_is_100_percent(part: int, whole: int, said: str) -> None:
    assert percent(part, whole) == said


class Slope(nn.Module):
    """A block with an activation of its kind."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.one, self.act, self.two = nn.Linear(4, 4), act, nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.act(self.one(x)))


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("abababa", "3 to 7 Slope: in turn like 1, 2"),
        ("abcabc", "4, 5, 6 Slope: in turn like 1, 2, 3"),
        ("caaaab", "3, 4, 5 Slope: each like 2"),
    ],
)
def test_what_alternates_is_told_once(pattern: str, told: str) -> None:
    kinds = {"a": nn.ReLU, "b": nn.Tanh, "c": nn.GELU}
    blocks = (Slope(kinds[c]()) for c in pattern)
    reading = Reading(ft.plan(nn.Sequential(nn.Linear(4, 4), *blocks, nn.Linear(4, 4)), torch.zeros(2, 4)))
    text = shown(TreeView(reading.groups).tree(module_rows(reading), Text("model")), 200)
    assert told in text and text.count(" Slope") == len(set(pattern)) + 1
