"""Source: every node knows the line of the model's code that made it."""

from __future__ import annotations

import linecache

import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.graph.guards import GUARDS
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.source_location import calling_line, written


def scaled(x: Tensor, gain: Tensor) -> Tensor:
    return x * gain  # mul


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)
        self.gain = nn.Parameter(torch.ones(4))

    def activate(self, x: Tensor) -> Tensor:
        return torch.nn.functional.gelu(x)  # gelu

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)  # up
        y = self.down(self.activate(y))  # down
        return x + scaled(y, self.gain)  # add gain


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.body = nn.Sequential(Block(), nn.Sequential(nn.ReLU(), Block()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # stem
        x = self.body(x)  # relu body_1_0
        return x.mean(1)  # mean


def test_every_node_knows_its_line() -> None:
    """The name of each operation stands in the comment of the line that calls it."""
    nodes = [n for n in ft.plan(Net(), torch.zeros(2, 3)).captured.graph.nodes if n.op not in ("placeholder", "output")]
    nodes = [n for n in nodes if n.target not in GUARDS]
    assert len(nodes) == 15
    for node in nodes:
        file, line = info(node).source
        assert file == __file__
        words = linecache.getline(file, line).partition("#")[2].split()
        name = node.name.rpartition("_")[0] if node.name[-1].isdigit() and node.op == "call_function" else node.name
        assert name in words or name.rpartition("_")[2] in words, f"{node.name}: line {line}"


def test_what_only_torch_calls_has_its_line() -> None:
    """A bare container has no code of the user's: the line is the container's."""
    plan = ft.plan(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.zeros(2, 3))
    sources = [info(n).source for n in plan.captured.graph.nodes if n.op == "call_module"]
    assert len(sources) == 2
    assert all(file.endswith("container.py") for file, _ in sources)


def test_lines_reach_the_emitted_network() -> None:
    plan = ft.plan(Net(), torch.zeros(2, 3))
    network = plan.rewrite(plan.sample(0.9, "inter", seed=0))
    known = {n.name: info(n).source for n in plan.captured.graph.nodes if info(n).source}
    kept = {info(n).captured: info(n).source for n in network.graph.nodes if info(n).captured}
    assert known.items() <= kept.items()


def test_outside_a_capture() -> None:
    line = calling_line()
    assert line is not None and line[0] == __file__
    assert written(line) == f"{__file__}:{line[1]}"
    assert written(None) == ""
