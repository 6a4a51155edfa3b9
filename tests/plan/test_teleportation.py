"""What an emitted network remembers of its making, and that `release` ends it."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.plan.teleportation import teleportation_of

X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


class Recurrent(nn.Module):
    """Its recurrent layer keeps a list of its parameters beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.rnn(x)[0]))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.from_numpy(self.a(x).detach().numpy()))


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)
        self.register_buffer("index", torch.tensor([4, 3, 2, 1, 0]))
        self.a.register_forward_hook(lambda module, given, out: out * 2)
        self.a.weight.register_hook(lambda grad: grad)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x))[..., self.index])


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 2))


def attention() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)


def emitted(make: Callable[[], nn.Module], mode: str) -> tuple[ft.Plan, nn.Module, list[weakref.ref[object]]]:
    model = make().eval()
    plan = ft.plan(model, X, mode=mode)
    parts = [*model.modules(), *model.parameters()]
    return plan, plan.rewrite(plan.sample(seed=0)), [weakref.ref(part) for part in parts]


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("make", [layers, attention, Recurrent, Untraceable, Hooked])
def test_a_released_network_does_not_keep_the_original_alive(make: Callable[[], nn.Module], mode: str) -> None:
    plan, network, parts = emitted(make, mode)
    expected = network(X)
    del plan
    gc.collect()
    assert all(part() is not None for part in parts)  # the network's plan holds it
    network.release()
    gc.collect()
    assert [part() for part in parts if part() is not None] == []
    assert torch.equal(network(X), expected)


def test_copies_are_released_each_by_itself() -> None:
    network, parts = emitted(layers, "full")[1:]
    other = copy.deepcopy(network)
    assert teleportation_of(other) is teleportation_of(network) is not None
    network.release()
    network.release()  # again: nothing is left to forget
    gc.collect()
    assert teleportation_of(network) is None
    assert teleportation_of(other) is not None
    assert parts[0]() is not None
    other.release()
    gc.collect()
    assert parts[0]() is None


def test_a_pickled_network_travels_without_its_plan() -> None:
    _, network, _ = emitted(layers, "full")
    other = pickle.loads(pickle.dumps(network))
    assert teleportation_of(other) is None
    assert torch.equal(other(X), network(X))


def test_what_a_released_network_cannot_do(tmp_path: Path) -> None:
    plan, network, _ = emitted(layers, "full")
    model = plan.captured.model
    assert ft.verify(model, network, X).nodes > 0
    network.release()
    report = ft.verify(model, network, X)
    assert report.passed
    assert (report.nodes, report.parameters) == (0, 0)
    with pytest.raises(ft.InputError, match="knows no plan"):
        ft.save(tmp_path / "net", network, "layers")


def test_only_emitted_networks_remember() -> None:
    assert teleportation_of(nn.Linear(2, 2)) is None
    model = layers()
    assert teleportation_of(torch.fx.symbolic_trace(model)) is None


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
def test_lists_of_parameters_hold_those_of_the_network() -> None:
    _, network, _ = emitted(Recurrent, "full")
    own = [p for _, p in network.rnn.named_parameters()]
    assert all(a is b for a, b in zip(network.rnn._flat_weights, own, strict=True))
    assert network.rnn._weights_have_changed()  # to be laid out anew when it first runs
    network(X)
    assert not network.rnn._weights_have_changed()
