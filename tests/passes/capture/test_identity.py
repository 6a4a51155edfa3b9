"""`__class__`, and `is`: answered as in a run, or what asks is kept whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.capture.identity import compares_types, compares_variables

X = [torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) for n in (4, 3, 1)]


class Net(nn.Module):
    def __init__(self, ask: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.same, self.ask = nn.Linear(6, 8), nn.Linear(8, 2), nn.Identity(), ask

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.a(x))
        return self.b(h * 2 if self.ask(self, h) else h)


def contiguous(net: Net, h: Tensor) -> bool:
    y = h.contiguous()
    return y is h


def to(net: Net, h: Tensor) -> bool:
    y = h.to(torch.float32)
    return h is y


def written(net: Net, h: Tensor) -> bool:
    y = h.mul_(1)
    return y is h


def identity(net: Net, h: Tensor) -> bool:
    y = net.same(h)
    return y is not h


def copied(net: Net, h: Tensor) -> bool:
    y = h.clone()
    return y is h


def of_another_class(net: Net, h: Tensor) -> bool:
    kinds = (net.a.__class__, h.__class__, net.a.weight.__class__)
    return kinds == (nn.Linear, Tensor, nn.Parameter)


CLASSES: dict[str, Callable[[Net, Tensor], Any]] = {
    "a tensor": lambda net, h: h.__class__ is Tensor,
    "its name": lambda net, h: h.__class__.__name__ == "Tensor",
    "beside a call in C": lambda net, h: torch.add(h, 1).__class__ is Tensor and torch.is_tensor(h),
    "a parameter": lambda net, h: net.a.weight.__class__ is nn.Parameter,
    "a layer": lambda net, h: net.a.__class__ is nn.Linear,
    "one of several": lambda net, h: net.a.__class__ in (nn.Conv2d, nn.Linear),
    "a table": lambda net, h: {nn.Linear: 1}.get(net.a.__class__),
    "the module": lambda net, h: net.__class__ is Net and net.__class__.__mro__[1] is nn.Module,
    "a shape": lambda net, h: h.shape.__class__ is torch.Size,
    "a size": lambda net, h: h.shape[0].__class__ is int,
    "several": of_another_class,
    "another variable": lambda net, h: h is not net.a,
}
SAME: dict[str, Callable[[Net, Tensor], Any]] = {
    "contiguous": contiguous,
    "to": to,
    "in place": written,
    "identity": identity,
    "a copy": copied,
    "expand": lambda net, h: h.expand_as(h) is h,
    "the call first": lambda net, h: h.contiguous() is h,
    "the call last": lambda net, h: h is h.contiguous(),
}


@torch.no_grad()
@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", [*CLASSES, *SAME])
def test_it_is_answered_as_in_a_run(name: str, mode: str) -> None:
    model = ft.randomize(Net((CLASSES | SAME)[name]).eval())
    plan = ft.plan(model, X[0], mode=mode)
    assert name not in CLASSES or (plan.num_free == 8 and not plan.opaque)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for x in X:
        assert torch.equal(network(x), model(x))


def of_modes(x: Any) -> bool:
    return x.mode is None or x.mode is torch.nn.Linear


def of_kinds(x: Any, y: Any) -> bool:
    return type(x) is type(y)


def of_types(x: Any) -> bool:
    kind = x.dtype
    return kind is not torch.bfloat16


def test_which_code_compares() -> None:
    assert compares_types(of_types.__code__)
    assert not any(compares_types(f.__code__) for f in (of_modes, of_kinds))
    assert not any(compares_variables(f.__code__) for f in (of_modes, of_kinds, of_types))
