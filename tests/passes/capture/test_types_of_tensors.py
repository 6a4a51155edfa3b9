"""A network that is cast, or is given inputs of another floating-point type, does what the model does, or refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
TABLE = torch.tensor([0.1, 1 / 3])


class Net(nn.Module):
    def __init__(self, ask: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.ask = nn.Linear(6, 8), nn.Linear(8, 2), ask

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.a(x.to(self.a.weight.dtype)))
        return self.b(h) * 3 if self.ask(self, x) else self.b(h)


DECIDE: dict[str, Callable[[Net, Tensor], Any]] = {
    "equal": lambda net, x: x.dtype == torch.float32,
    "not equal": lambda net, x: x.dtype != torch.bfloat16,
    "turned round": lambda net, x: torch.float64 == x.dtype,
    "one of several": lambda net, x: x.dtype in (torch.float16, torch.bfloat16),
    "in a set": lambda net, x: x.dtype in {torch.float16, torch.bfloat16},
    "a table": lambda net, x: {torch.float32: 1}.get(x.dtype),
    "the same object": lambda net, x: x.dtype is torch.float32,
    "another object": lambda net, x: x.dtype is not net.a.weight.dtype,
    "a weight's": lambda net, x: net.a.weight.dtype == torch.float32,
    "that of another": lambda net, x: x.dtype == net.a.weight.dtype,
    "a text": lambda net, x: "64" in str(x.dtype),
    "a formatted text": lambda net, x: f"{x.dtype}" == "torch.float32",
    "an old type": lambda net, x: isinstance(x, torch.FloatTensor),
    "one of two old types": lambda net, x: isinstance(x, (torch.BFloat16Tensor, torch.DoubleTensor)),
    "the name of an old type": lambda net, x: x.type() == "torch.FloatTensor",
    "promoted": lambda net, x: torch.promote_types(x.dtype, torch.float32) == torch.float64,
    "of both": lambda net, x: torch.result_type(x, net.a.weight) == torch.float32,
    "its size": lambda net, x: x.dtype.itemsize > 4,
    "a fact": lambda net, x: torch.finfo(x.dtype).eps < 1e-10,
    "the name of a fact": lambda net, x: torch.finfo(x.dtype).dtype == "float32",
    "any float": lambda net, x: x.is_floating_point() and x.dtype.is_floating_point,
}
COMPUTE: dict[str, Callable[[Net, Tensor], Any]] = {
    "the smallest number": lambda net, x: x.masked_fill(x < 0, torch.finfo(x.dtype).min),
    "where": lambda net, x: torch.where(x > 0, x, torch.finfo(x.dtype).max),
    "an epsilon": lambda net, x: x / (x.abs() + torch.finfo(x.dtype).eps),
    "a bound": lambda net, x: x.clamp(min=torch.finfo(type=x.dtype).tiny),
    "a byte count": lambda net, x: x * x.element_size(),
    "a constant": lambda net, x: x[:, :2] * torch.tensor([0.1, 1 / 3]),
    "a constant of its own": lambda net, x: x[:, :2] + TABLE,
    "a number": lambda net, x: x * torch.tensor(0.1),
    "a range": lambda net, x: x + torch.arange(6.0) / 7,
    "a float constant": lambda net, x: x + torch.full((6,), 1 / 3, dtype=torch.float64),
    "a constant that is cast": lambda net, x: x[:, :2] * TABLE.to(x),
}


class Computing(Net):
    def forward(self, x: Tensor) -> Any:
        return self.ask(self, x), self.b(torch.relu(self.a(x)))


@torch.no_grad()
@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", [*DECIDE, *COMPUTE])
def test_a_network_that_is_cast(name: str, mode: str) -> None:
    kind, ask = (Net, DECIDE[name]) if name in DECIDE else (Computing, COMPUTE[name])
    model = ft.randomize(kind(ask).eval())
    plan = ft.plan(model, X, mode=mode)
    assert plan.num_free == 8
    assert not plan.opaque
    assert name not in COMPUTE or not plan.conditions
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for weights in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        one, other = copy.deepcopy(model).to(weights), copy.deepcopy(network).to(weights)
        for inputs in (torch.float32, torch.float64, torch.bfloat16) if name in DECIDE else (weights,):
            try:
                found = other(X.to(inputs))
            except ft.GuardError:
                assert name in DECIDE
                assert (weights, inputs) != (torch.float32, torch.float32)
                continue
            wanted = one(X.to(inputs))
            pairs = [(wanted, found)] if name in DECIDE else zip(wanted, found, strict=True)
            assert all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs), (weights, inputs)


def raises_unless(net: Net, x: Tensor) -> bool:
    if not x.dtype == torch.float32:
        raise TypeError
    return True


def raises(net: Net, x: Tensor) -> bool:
    if x.dtype != net.a.weight.dtype:
        raise TypeError
    return True


@pytest.mark.parametrize("ask", [raises_unless, raises])
def test_what_it_insists_on_is_no_condition(ask: Callable[[Net, Tensor], bool]) -> None:
    plan = ft.plan(Net(ask).eval(), X)
    assert not plan.conditions
    with pytest.raises(ft.GuardError, match=r"torch\.float64: capture it again"):
        plan.rewrite(plan.identity())(X.double())


@torch.no_grad()
def test_how_it_lies_in_memory() -> None:
    model = ft.randomize(Net(lambda net, x: x.t().is_contiguous()).eval())
    plan = ft.plan(model, X)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert torch.equal(network(X[:3]), model(X[:3]))
    with pytest.raises(ft.GuardError, match="is_contiguous"):
        network(X[:1])
