"""Gradients flow through an emitted network as through the original, and stop where it stops them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.graph.grad_mode import switch


class Backbone(nn.Module):
    """A backbone in a context of its own, and a head."""

    def __init__(self, context: Callable[[], Any]) -> None:
        super().__init__()
        self.context = context
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        with self.context():
            h = self.backbone(x)
        return self.head(h.clone())  # what inference_mode made must not be kept for a backward


class Decorated(Backbone):
    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        return self.backbone(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)) + self.head(self.backbone(x).detach())


class Nested(Backbone):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.backbone[0](x)
            with torch.enable_grad():
                h = self.backbone[1](h) + self.head.bias.sum()
            h = h * self.head.weight[0]
        return self.head(h) + self.head.bias


class Force(nn.Module):
    """What a molecule's energy says its forces are: a gradient in a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


class Positions(nn.Module):
    """A table that has no gradient anyway."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.rand(4))
        self.layer = nn.Linear(4, 4)

    @torch.no_grad()
    def table(self, length: int) -> Tensor:
        return torch.arange(length)[:, None] * self.frequencies

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.table(x.shape[0]).cos()


def gradients(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    network(x).square().sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


NETWORKS = {
    "no_grad": lambda: Backbone(torch.no_grad),
    "inference_mode": lambda: Backbone(torch.inference_mode),
    "inference_mode, off": lambda: Backbone(lambda: torch.inference_mode(False)),
    "enable_grad": lambda: Backbone(torch.enable_grad),
    "no context": lambda: Backbone(nullcontext),
    "as a decorator": lambda: Decorated(nullcontext),
    "one in another": lambda: Nested(nullcontext),
    "a gradient in a forward": Force,
    "a table": Positions,
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("mode", ["weights", "full"])
def test_gradients_are_the_originals_in_another_basis(name: str, mode: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    x = torch.randn(3, 4)
    plan = ft.plan(model, x, mode=mode)
    cob = plan.sample(0.9, exact=True, seed=1)
    gm = plan.rewrite(cob)
    assert ft.verify(model, gm, x).passed
    expected, found = gradients(model, x), gradients(gm, x)
    assert expected and found.keys() == expected.keys()
    scales = plan.scales(cob)
    for key, gradient in expected.items():
        assert torch.equal(found[key], gradient / scales.get(key, torch.ones(())))
    with torch.no_grad():
        assert torch.equal(model(x), gm(x))


def emitted(model: nn.Module, x: Tensor) -> ft.TeleportedModule:
    plan = ft.plan(model.eval(), x)
    return plan.rewrite(plan.sample(0.5, seed=0))


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_outside_stays_as_it_is(name: str, outside: bool) -> None:
    x = torch.randn(3, 4)
    gm = emitted(NETWORKS[name](), x)
    with torch.set_grad_enabled(outside):
        gm(x)
        assert torch.is_grad_enabled() is outside
        if name not in ("no context", "a table"):
            with pytest.raises(RuntimeError, match="mat1 and mat2"):
                gm(torch.randn(3, 5))
        assert torch.is_grad_enabled() is outside


@pytest.mark.parametrize(
    "way",
    [
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: torch.compile(m, backend="eager", fullgraph=True),
    ],
)
def test_copies_switch_too(way: Callable[[nn.Module], nn.Module]) -> None:
    x = torch.randn(3, 4)
    gm = emitted(NETWORKS["no_grad"](), x)
    other = way(gm)
    assert torch.equal(other(x), gm(x))
    other(x).sum().backward()
    with_gradient = {name.removeprefix("_orig_mod.") for name, p in other.named_parameters() if p.grad is not None}
    assert with_gradient == {"head.weight", "head.bias"}


@pytest.mark.parametrize(("name", "count"), {"no_grad": 2, "one in another": 4, "no context": 0, "a table": 0}.items())
def test_switches_are_few(name: str, count: int) -> None:
    gm = emitted(NETWORKS[name](), torch.randn(3, 4))
    assert sum(node.target is switch for node in gm.graph.nodes) == count
