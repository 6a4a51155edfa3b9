"""`type(x)` of a proxy, and of a shadow, is the class of what it stands for; outputs that are mapping proxies."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.capture.type_questions import Type, answering

X = [torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) for n in (4, 3, 5)]


class Net(nn.Module):
    def __init__(self, ask: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.ask = nn.Linear(6, 8), nn.Linear(8, 2), ask

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.a(x))
        return self.b(h * 2 if self.ask(self, h) else h)


def matches(net: Net, h: Tensor) -> bool:
    match h.shape[0]:
        case int():
            return True
        case _:
            return False


QUESTIONS: dict[str, Callable[[Net, Tensor], Any]] = {
    "a size": lambda net, h: type(h.shape[0]) is int,
    "one of several": lambda net, h: type(h.size(0)) in (int, float),
    "a quotient": lambda net, h: type(h.shape[0] / 2) is float,
    "its class": lambda net, h: h.shape[0].__class__ is int,
    "a subclass": lambda net, h: issubclass(type(h.numel()), int),
    "a name": lambda net, h: type(h.shape[0]).__name__ == "int",
    "a match": matches,
    "a tensor": lambda net, h: type(h) is Tensor,
    "a shape": lambda net, h: type(h.shape) is torch.Size,
    "parts": lambda net, h: type(h.split(4, dim=1)) is tuple,
    "a parameter": lambda net, h: type(net.a.weight) is nn.Parameter,
    "a layer": lambda net, h: type(net.a) is nn.Linear,
    "the module": lambda net, h: type(net) is Net,
    "a type": lambda net, h: type(int) is type and isinstance(type(h), type),
    "three arguments": lambda net, h: type("Made", (), {"n": 1}).n == 1,  # type: ignore[attr-defined]
}


@torch.no_grad()
@pytest.mark.parametrize("name", QUESTIONS)
def test_it_is_answered_as_in_a_run(name: str) -> None:
    model = ft.randomize(Net(QUESTIONS[name]).eval())
    plan = ft.plan(model, X[0])
    assert not plan.opaque
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for x in X:
        assert torch.equal(network(x), model(x))


def test_the_globals_are_as_they_were() -> None:
    table: dict[str, Any] = {}
    with answering([table]), answering([table]):
        assert table == {"type": Type}
    assert not table
    own: dict[str, Any] = {"type": len}  # code has a name of its own
    with answering([own]):
        assert own == {"type": len}
    assert "type" not in globals()


@torch.no_grad()
def test_mapping_proxies_are_inputs_and_outputs() -> None:
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, given: Any) -> Any:
            y = self.b(torch.relu(self.a(given["x"])))
            return types.MappingProxyType({"y": y, "parts": [types.MappingProxyType({"n": y.shape[0]})]})

    model = Maps().eval()
    example = types.MappingProxyType({"x": X[0]})
    plan = ft.plan(model, example)
    assert (plan.num_free, list(plan.opaque)) == (8, [])
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert ft.verify(model, network, example).passed
    for x in X:
        one, other = model({"x": x}), network({"x": x})
        assert type(other) is type(other["parts"][0]) is types.MappingProxyType
        assert torch.equal(one["y"], other["y"])
        assert one["parts"] == other["parts"]
