"""Tensors among the inputs that `forward` writes to: their caller sees what is left there, as an output."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

Writes = Callable[[Tensor, Tensor], Tensor]


def copied(h: Tensor, t: Tensor) -> Tensor:
    t.copy_(h)
    return h


def copied_and_read(h: Tensor, t: Tensor) -> Tensor:
    return t.copy_(h)


def multiplied(h: Tensor, t: Tensor) -> Tensor:
    t.mul_(h)
    return h


def state(h: Tensor, t: Tensor) -> Tensor:  # as a state space model keeps it
    new = t.float() * 0.5 + h * h
    t.copy_(new.to(t.dtype))
    return new


def part(h: Tensor, t: Tensor) -> Tensor:
    t[:, :2] = h[:, :2]
    return t


def view(h: Tensor, t: Tensor) -> Tensor:
    t.view(-1)[:4] = h[0]
    return h


def view_copied(h: Tensor, t: Tensor) -> Tensor:
    t[:, 1].copy_(h[:, 0])
    return h


def given_out(h: Tensor, t: Tensor) -> Tensor:
    torch.add(h, h, out=t)
    return h


class Net(nn.Module):
    def __init__(self, write: Writes, held: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.write, self.held = nn.Linear(4, 4), nn.Linear(4, 4), write, held

    def forward(self, x: Tensor, given: Any) -> Tensor:
        out: Tensor = self.b(self.write(self.a(x), self.held(given)))
        return out


HOLDERS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "tensor": (lambda t: t, lambda given: given),
    "list": (lambda t: [t], lambda given: given[0]),
    "dictionary": (lambda t: {"t": t}, lambda given: given["t"]),
    "object": (lambda t: SimpleNamespace(t=t), lambda given: given.t),
    "nested": (lambda t: SimpleNamespace(states={0: t}), lambda given: given.states[0]),
}


def planned(write: Writes, holder: str, mode: Any) -> tuple[ft.Plan, nn.Module, tuple[Any, ...]]:
    torch.manual_seed(0)
    hold, held = HOLDERS[holder]
    model = ft.randomize(Net(write, held)).eval()
    given = torch.randn(3, 4), hold(torch.randn(3, 4))
    return ft.plan(model, *given, mode=mode), model, given


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize(
    "write", [copied, copied_and_read, multiplied, state, part, view, view_copied, given_out], ids=lambda w: w.__name__
)
def test_the_caller_finds_what_the_model_leaves(write: Writes, holder: str, mode: str) -> None:
    plan, model, (x, given) = planned(write, holder, mode)
    emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    ours, theirs = copy.deepcopy(given), copy.deepcopy(given)
    held = HOLDERS[holder][1]
    with torch.no_grad():
        assert torch.equal(model(x, ours), emitted(x, theirs))
    assert torch.equal(held(ours), held(theirs))
    assert not torch.equal(held(ours), held(given))
    assert ft.verify(model, emitted, x, given).passed


def test_what_is_not_left_there_stays_free() -> None:
    assert planned(part, "tensor", "full")[0].num_free == 2  # of four channels, two are written
    assert planned(state, "object", "full")[0].num_free == 4  # the signs of what is squared


class Left(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.a, self.factor = nn.Linear(4, 4), factor

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.a(x)
        t.copy_(out * self.factor)
        return out


def test_verify_compares_what_is_left_in_the_inputs() -> None:
    torch.manual_seed(0)
    one, two = ft.randomize(Left(1)).eval(), Left(2).eval()
    two.load_state_dict(one.state_dict())
    given = torch.randn(3, 4), torch.zeros(3, 4)
    assert ft.verify(one, copy.deepcopy(one), *given).passed
    assert not ft.verify(one, two, *given).passed
