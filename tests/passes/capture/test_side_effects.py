"""Random numbers of Python's and numpy's: each run draws its own, so what draws them is kept whole, or refused."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_numpy(np.random.randn(8)).float()


class Method(nn.Module):
    """Only a method of it draws, and reads no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def jitter(self, x: Tensor) -> Tensor:
        return x * random.uniform(0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.jitter(self.layer(x))


class LayerDrop(nn.Module):
    """A layer that is left out at random in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and random.random() < 0.5:
            return x
        return x + self.layer(x)


class DropPath(nn.Module):
    """The same without a weight of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(np.random.rand() < 0.5) if self.training else x


class Scaled(nn.Module):
    """A whole network that draws."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)) * random.random())


def around(module: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), module, nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def seeded(network: nn.Module, seed: int) -> Tensor:
    random.seed(seed)
    np.random.seed(seed)
    out: Tensor = network(X)
    return out


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize(
    ("make", "free", "opaque", "trains"),
    [
        (lambda: around(Noise()), 8, ["_2"], True),
        (lambda: around(Method()), 16, ["_2_jitter"], True),
        (lambda: around(LayerDrop()), 16, [], False),
        (lambda: around(DropPath()), 8, ["_2"], True),
        (Scaled, 0, ["_whole"], True),
    ],
)
def test_each_run_draws(make: Callable[[], nn.Module], free: int, opaque: list[str], trains: bool, mode: str) -> None:
    model = ft.randomize(make().eval())
    plan = ft.plan(model, X, mode=mode)
    assert plan.num_free == free
    assert [o.node for o in plan.opaque] == opaque
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for seed in range(4):
        assert torch.equal(seeded(network, seed), seeded(model, seed))
    assert ft.verify(model, network, X).bitwise_equal
    model.train(), network.train()
    if not trains:
        with pytest.raises(ft.InputError, match="draws random numbers of Python's"):
            network(X)
        return
    for seed in range(4):
        assert torch.equal(seeded(network, seed), seeded(model, seed))


@pytest.mark.parametrize("make", [Scaled, lambda: around(Noise()), lambda: around(LayerDrop())])
def test_a_plan_leaves_the_numbers_to_the_next_who_draws(make: Callable[[], nn.Module]) -> None:
    random.seed(0)
    np.random.seed(0)
    expected = random.random(), np.random.rand()
    random.seed(0)
    np.random.seed(0)
    ft.plan(make().eval(), X)
    assert (random.random(), np.random.rand()) == expected
