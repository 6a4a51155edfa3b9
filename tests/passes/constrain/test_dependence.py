"""Dependence: what comes of the inputs, of parameters alone, or of neither."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.constrain.dependence import Dependence, Source, parameters_of


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.linear = nn.Parameter(torch.randn(6, 3)), nn.Linear(6, 2)
        for name in ("mask", "scale", "table"):
            self.register_buffer(name, torch.rand(6, 3)[:, : 3 if name == "mask" else 1])

    def forward(self, x: Tensor) -> Tensor:
        x = x @ (self.weight * self.mask.abs()).t()
        x = x * (self.scale + 1).cos().view(-1)
        return self.linear(x + self.table.view(-1) * x.shape[0])


def test_sources() -> None:
    plan = ft.plan(Net(), torch.randn(4, 3))
    dependence = Dependence(parameters_of(plan.captured))
    graph = plan.captured.graph
    dependence.add(graph, {"linear"})
    found = {node.name: dependence.of(node) for node in graph.nodes}
    assert found["x"] is found["matmul"] is found["linear"] is Source.DATA
    assert found["weight"] is found["mul"] is Source.WEIGHTS
    assert found["cos"] is found["table"] is Source.FIXED
    assert dependence.shaping == {"mask"}
    assert "mask" not in plan.scales(plan.sample(seed=0))
    assert "table" in plan.scales(plan.sample(seed=0))
