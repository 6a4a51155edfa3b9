"""Copies: a model whose code still reads another one's tensors is refused, one that reads its own is scaled."""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
GLOBAL: dict[str, nn.Module] = {}


class Net(nn.Module):
    """`read` is what forward does with the first layer beside its call."""

    read: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu()).relu()
        return self.out(x if self.read is None else self.read(x))

    def own(self, x: Tensor) -> Tensor:
        return x * self.a.bias


class OfGlobal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * GLOBAL["layer"].bias


class Weak(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = weakref.ref(layer)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer()
        assert layer is not None
        return x + layer(torch.ones(6))


class Listed(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layers = [layer]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.layers[0].bias


def with_hook(net: Net) -> None:
    net.b.register_forward_hook(lambda module, inputs, output, a=net.a: output + a(torch.ones(6)))  # type: ignore[misc]


def with_closure(net: Net) -> None:
    net.read = lambda x: x * net.a.bias


def with_lambda_module(net: Net) -> None:
    net.read = nn.Sequential(Weak(net.a))


def with_global(net: Net) -> None:
    GLOBAL["layer"] = net.a
    net.read = OfGlobal()


def with_forward(net: Net) -> None:
    net.b.forward = lambda x: x @ net.b.weight.t() + x * net.a.bias  # type: ignore[method-assign]


def with_list(net: Net) -> None:
    net.read = Listed(net.a)


def with_method(net: Net) -> None:
    net.read = net.own


def with_pinned_tensor(net: Net) -> None:
    net.read = functools.partial(torch.mul, net.a.bias)


def planned(add: Callable[[Net], None]) -> tuple[Net, Any, Any]:
    net = Net().eval()
    add(net)
    ft.randomize(net)
    plan = ft.plan(net, X, mode="weights")
    assert plan.num_free and not plan.opaque
    return net, plan, plan.sample(0.9, "inter", exact=True, seed=0)


@pytest.mark.parametrize("add", [with_hook, with_closure, with_lambda_module, with_global, with_forward])
def test_a_copy_that_reads_the_planned_model_is_refused(add: Callable[[Net], None]) -> None:
    net, plan, cob = planned(add)
    other, before = copy.deepcopy(net), net(X)
    weights = [p.clone() for p in other.parameters()]
    with pytest.raises(ft.ModelError, match="the code of this copy can read '"):
        plan.apply_(cob, other)
    assert all(torch.equal(p, w) for p, w in zip(other.parameters(), weights, strict=True))
    plan.apply_(cob)
    assert torch.equal(net(X), before)


@pytest.mark.parametrize("add", [with_list, with_method, with_pinned_tensor])
def test_a_copy_that_reads_its_own_is_scaled(add: Callable[[Net], None]) -> None:
    net, plan, cob = planned(add)
    other = copy.deepcopy(net)
    plan.apply_(cob, other)
    assert torch.equal(other(X), net(X))
    assert not torch.equal(other.b.weight, net.b.weight)


def test_what_both_have_registered_is_scaled() -> None:
    """A shallow copy shares its modules, so code that reads the planned model's reads its own."""
    net, plan, cob = planned(with_list)
    before = net(X)
    other = copy.copy(net)
    plan.apply_(cob, other)
    assert torch.equal(other(X), before)
    assert torch.equal(net(X), before)


@pytest.mark.parametrize("make", [lambda: nn.LSTM(6, 4, 2), lambda: nn.TransformerEncoderLayer(6, 2, 8)])
def test_copies_of_torchs_own_layers(make: Callable[[], nn.Module]) -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), make()).eval()
    plan = ft.plan(net, X, mode="weights")
    plan.apply_(plan.sample(seed=0), copy.deepcopy(net))
