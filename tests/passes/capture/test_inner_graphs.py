"""Code that no graph holds calls modules that have graphs: what is in them is free, and what the code reads is not."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

pytestmark = pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning", "ignore::fxteleport.ConditionWarning")


def solve(field: Callable[[Tensor, Tensor], Tensor], y: Tensor) -> Tensor:
    """An adaptive solver: the data decide about each step."""
    t, h = torch.zeros(()), torch.tensor(0.4)
    while t < 1:
        slope = field(t, y)
        if (field(t + h, y + h * slope) - slope).abs().max() * h < 0.5:
            t, y = t + h, y + h * slope
        else:
            h = h / 2
    return y


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y) * (1 + t)


class Solved(nn.Module):
    """A solver that the model's own forward calls: between layers with a graph of their own, and single ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.field, self.head = Field(), nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(solve(self.field, self.first(x)))


class Block(nn.Module):
    """The same in a part of a model; with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.field, self.gain = Field(), nn.Parameter(torch.ones(4))

    def forward(self, y: Tensor) -> Tensor:
        return solve(self.field, y * self.gain)


class Halting(nn.Module):
    """A cell that runs until the data have had enough, and a list of parts that the code counts out."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            for cell in self.cells:
                x = x + cell(x)
            if x.norm() > 5:
                break
        return x


class Slope(nn.Module):
    """The gradient of a network by its input."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]


def in_the_middle() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 4), Block(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "a solver": (Solved, 11), "a solver in a part": (in_the_middle, 18), "a halting loop": (Halting, 10),
    "gradients": (Slope, 6),
}  # fmt: skip


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", MODELS)
def test_what_it_calls_is_free(name: str, mode: str, x: Tensor, assert_exact: Callable[..., ft.Plan]) -> None:
    build, free = MODELS[name]
    plan = assert_exact(build(), x, mode=mode)
    assert plan.num_free == free
    assert [c.kind for c in plan.conditions if "only calls" in c.value] == ["data"]


@pytest.mark.parametrize("name", MODELS)
def test_copies_are_networks_of_their_own(name: str, x: Tensor) -> None:
    model = ft.randomize(MODELS[name][0]()).eval()
    plan = ft.plan(model, x)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    other = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
    expected = model(x[:2])
    for made in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(made(x[:2]), expected)
        made.load_state_dict(other.state_dict())
        assert torch.equal(made(x[:2]), expected)
        made.double().float()
        for parameter in made.parameters():
            parameter.data.zero_()
        assert not torch.equal(made(x[:2]), expected)
    assert torch.equal(network(x[:2]), expected)
    assert model.state_dict().keys() <= network.state_dict().keys()


def test_gradients_go_through(x: Tensor) -> None:
    model = ft.randomize(Solved()).eval()
    plan = ft.plan(model, x, mode="weights")
    cob = plan.sample(0.9, exact=True, seed=0)
    network = plan.rewrite(cob).train()
    scales = plan.scales(cob)
    for one in (model.train(), network):
        one(x).sum().backward()
    for name, parameter in network.named_parameters():
        expected = model.get_parameter(name).grad
        assert expected is not None and torch.equal(parameter.grad * scales.get(name, torch.ones(())), expected), name


class Reads(Solved):
    """Its code does more with the field than to call it."""

    def __init__(self, read: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.read(self.field)


READERS: dict[str, Callable[[Any], Any]] = {
    "a weight": lambda f: f.net[0].weight.sum(), "all weights": lambda f: sum(p.sum() for p in f.parameters()),
    "a state dict": lambda f: f.state_dict()["net.0.weight"].sum(), "a part": lambda f: f.net[0](torch.ones(4)).sum(),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_weights_that_the_code_reads_stay(name: str, x: Tensor, assert_exact: Callable[..., ft.Plan]) -> None:
    plan = assert_exact(Reads(READERS[name]), x)
    assert plan.num_free == 5  # of the head


def test_weights_that_the_code_reads_on_other_data_are_not_read(x: Tensor) -> None:
    model = Reads(lambda f: 0)
    model.read = lambda f: f.net[0].weight.sum() if float(x.sum()) == 0 else 0
    plan = ft.plan(model, x)
    network = plan.rewrite(plan.sample(0.9, seed=0))
    x.zero_()
    with pytest.raises(RuntimeError, match="reads weights"):
        network(x)


class Twice(Solved):
    """Two forms of call: no one graph holds both."""

    def forward(self, x: Tensor) -> Tensor:
        y = solve(lambda t, y: self.field(t, y), self.first(x))
        return self.head(self.field(torch.ones(()), y[0]) + y)


def test_calls_that_are_not_alike(x: Tensor, assert_exact: Callable[..., ft.Plan]) -> None:
    assert assert_exact(Twice(), x).num_free == 5


def test_a_tied_weight_stays(x: Tensor, assert_exact: Callable[..., ft.Plan]) -> None:
    model = Solved()
    model.tied = model.field.net[0].weight
    assert assert_exact(model, x).num_free == 5  # of the head


def test_hooks_of_what_is_called_run(x: Tensor, assert_exact: Callable[..., ft.Plan]) -> None:
    model = Solved()
    model.field.register_forward_hook(lambda _, args, out: out * 2)
    assert assert_exact(model, x).num_free >= 5
