"""Modules that a forward reaches in other ways than by their names: what is traced is the clone, in eval mode."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Runner:
    """An object that is no module, and runs one."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        return self.module(x)  # type: ignore[no-any-return]


class Stack(nn.Sequential):
    def one_by_one(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class Referring(nn.Module):
    """Runs a block that drops and normalises, by whatever refers to it."""

    def __init__(self, refer: Callable[[nn.Module], Any], run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.block = Stack(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU())
        self.reference, self.run = refer(self.block), run

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.run(self.reference, self.first(x)))


REFERENCES: dict[str, tuple[Callable[[nn.Module], Any], Callable[[Any, Tensor], Tensor]]] = {
    "an object": (Runner, lambda r, x: r(x)),
    "a function": (lambda block: lambda x: block(x), lambda r, x: r(x)),
    "its forward": (lambda block: block.forward, lambda r, x: r(x)),
    "a list": (lambda block: [block], lambda r, x: r[0](x)),
    "a dictionary": (lambda block: {"it": block}, lambda r, x: r["it"](x)),
    "a namespace": (lambda block: types.SimpleNamespace(it=block), lambda r, x: r.it(x)),
    "a weak reference": (weakref.ref, lambda r, x: r()(x)),
    "slices": (lambda block: [block], lambda r, x: r[0][2:](r[0][:2](x))),
    "a sum of slices": (lambda block: [block], lambda r, x: (r[0][:1] + r[0][1:])(x)),
    "a slice that grows": (lambda block: [block], lambda r, x: r[0][:-1].append(r[0][-1])(x)),
    "a slice with a method": (lambda block: [block], lambda r, x: r[0][1:].one_by_one(r[0][:1].one_by_one(x))),
    "a new container": (lambda block: [block], lambda r, x: nn.Sequential(*r[0][:2], *r[0][2:])(x)),
    "an object in a list": (lambda block: [Runner(block)], lambda r, x: r[0](x)),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", REFERENCES)
def test_the_clone_is_traced(name: str, mode: str, training: bool) -> None:
    """As free, and as exact in both modes, as a network that names the block."""
    model = ft.randomize(Referring(*REFERENCES[name]))
    plan = ft.plan(model.train(training), X, mode=mode)
    assert (plan.num_free, plan.opaque) == (16, [])
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    gm = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())
    assert ft.verify(model, gm, X).passed
    outs = []
    for network in (model.train(), gm.train()):
        torch.manual_seed(1)
        outs.append(network(X))
    assert torch.equal(*outs)


class Child(nn.Module):
    """Runs a part of its parent's."""

    def __init__(self, parent: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "parent", weakref.ref(parent))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.parent().first(x))


class Parent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.child = Child(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.child(x))


def test_a_child_that_knows_its_parent(assert_exact: Callable[..., ft.Plan]) -> None:
    plan = assert_exact(Parent(), X, at_least=8)
    assert not plan.opaque


class Holding(nn.Module):
    """Computes with another layer's weight, which it has in a list, before any input meets it."""

    def __init__(self, way: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.held, self.way = [self.last.weight], way

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.first(x))) @ self.way(self.held[0])
        return out


HELD: dict[str, Callable[[Tensor], Tensor]] = {
    "a method": lambda w: w.clone(),
    "an operator": lambda w: -(w * 2),
    "a function": lambda w: torch.tanh(w),
    "a property": lambda w: w.mT.T,
    "an index": lambda w: w[:, 1:],
    "a list": lambda w: torch.cat([w, w], 1),
    "in place": lambda w: w.clone().mul_(3),
    "its size": lambda w: w.view(w.shape[0], w.size(1)) / w.numel(),
}


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", HELD)
def test_a_weight_that_is_held_is_no_constant(name: str, mode: str) -> None:
    torch.manual_seed(0)
    model = ft.randomize(Holding(HELD[name]))
    plan = ft.plan(model, X, mode=mode)
    cob = plan.sample(exact=True, seed=0)
    network, scales = plan.rewrite(cob), plan.scales(cob)
    assert ft.verify(model, network, X).bitwise_equal
    for one in (model, network):
        one(X).pow(2).sum().backward()
    grads = dict(network.named_parameters())
    for key, p in model.named_parameters():
        torch.testing.assert_close((p.grad / scales.get(key, 1)).float(), grads[key].grad, msg=key)
    with torch.no_grad():
        model.last.weight.data = model.last.weight * 3
        assert torch.equal(plan.rewrite(cob)(X), model(X))
