"""State in objects of the user's, in streams, in namespaces: kept whole with an own copy, or refused."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

pytestmark = pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
G = torch.Generator().manual_seed(0)
RUNS = [torch.randn(4, 6, generator=G) for _ in range(5)]
GLOBAL = {"n": 0}


class State:
    def __init__(self) -> None:
        self.h: Any = None
        self.n = 0

    def update(self, h: Tensor) -> Tensor:
        before = 0.0 if self.h is None else self.h
        self.h = h.mean(0)
        return h + before


@dataclasses.dataclass
class Record:
    kept: list[Tensor] = dataclasses.field(default_factory=list)


class Slots:
    __slots__ = ("h",)

    def __init__(self) -> None:
        self.h: Any = None


class Net(nn.Module):
    """`held` is what it holds, and `step` what it does with that and the hidden layer."""

    def __init__(self, make: Callable[[], Any], step: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)
        self.register_buffer("buffer", None)
        self.held, self.step = make(), step

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.step(self, torch.relu(self.a(x))))


def remembered(of: Callable[[Any], Any]) -> Callable[[Net, Tensor], Tensor]:
    def step(net: Net, h: Tensor) -> Tensor:
        state = of(net.held)
        before, state.h = state.h, h.mean(0)
        return h if before is None else h + before

    return step


def appended(net: Net, h: Tensor) -> Tensor:
    for before in net.held.kept:
        h = h + before
    net.held.kept.append(h.mean(0))
    return h


def counted(net: Net, h: Tensor) -> Tensor:
    net.held.n += 1
    return h * 0.5 if net.held.n % 3 == 0 else h


def closed_over() -> Callable[[], int]:
    n = 0

    def count() -> int:
        nonlocal n
        n += 1
        return n

    return count


def drawn_once(net: Net, h: Tensor) -> Tensor:
    if net.held is None:
        net.held = torch.randn(8)
    return h + net.held


def drawn_into_buffer(net: Net, h: Tensor) -> Tensor:
    if net.buffer is None:
        net.buffer = torch.randn(8)
    return h + net.buffer


def next_of(net: Net, h: Tensor) -> Tensor:
    return h * next(net.held)


def drawn(net: Net, h: Tensor) -> Tensor:
    return h * torch.rand(8, generator=net.held)


KEPT: dict[str, tuple[Callable[[], Any], Callable[[Net, Tensor], Tensor]]] = {
    "an object": (State, remembered(lambda held: held)),
    "an object in an object": (lambda: SimpleNamespace(inner=[State()]), remembered(lambda held: held.inner[0])),
    "an object in a list": (lambda: [State(), State()], remembered(lambda held: held[1])),
    "an object in a dictionary": (lambda: {"a": (State(),)}, remembered(lambda held: held["a"][0])),
    "slots": (Slots, remembered(lambda held: held)),
    "a list in a data class": (Record, appended),
    "a list in a list": (lambda: [[]], lambda net, h: (net.held[0].append(1), h * len(net.held[0]))[1]),
    "a method": (State, lambda net, h: net.held.update(h)),
    "a counter in an object": (State, counted),
    "a closure": (closed_over, lambda net, h: h * net.held()),
    "itertools.count": (lambda: itertools.count(1), next_of),
    "an iterator": (lambda: iter([1.0, 2.0, 3.0] * 9), next_of),
    "itertools.cycle": (lambda: itertools.cycle([1.0, 2.0, 3.0]), next_of),
    "an iterator in an object": (
        lambda: SimpleNamespace(it=itertools.count(1)),
        lambda net, h: h * next(net.held.it),
    ),
    "torch.Generator": (lambda: torch.Generator().manual_seed(0), drawn),
    "a generator's size": (
        lambda: torch.Generator().manual_seed(0),
        lambda net, h: h * torch.rand(h.shape, generator=net.held),
    ),
    "random.Random": (lambda: random.Random(0), lambda net, h: h * net.held.random()),
    "numpy's generator": (lambda: np.random.default_rng(0), lambda net, h: h * float(net.held.random())),
    "noise drawn once": (lambda: None, drawn_once),
    "noise in a buffer": (lambda: None, drawn_into_buffer),
    "noise in an object": (
        State,
        lambda net, h: h + (net.held.h if net.held.h is not None else _put(net.held, torch.randn(8))),
    ),
}


def _put(state: State, value: Tensor) -> Tensor:
    state.h = value
    return value


def counted_by_class(net: Net, h: Tensor) -> Tensor:
    type(net).total = getattr(type(net), "total", 0) + 1  # type: ignore[attr-defined]
    return h * type(net).total  # type: ignore[attr-defined]


def counted_globally(net: Net, h: Tensor) -> Tensor:
    GLOBAL["n"] += 1
    return h * GLOBAL["n"]


def with_default(net: Net, h: Tensor, memo: list[int] = []) -> Tensor:  # noqa: B006 that is what is tested
    memo.append(1)
    return h * len(memo)


class Refused(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        if self.held == "class":
            h = counted_by_class(self, h)
        if self.held == "global":
            h = counted_globally(self, h)
        if self.held == "default":
            h = with_default(self, h)
        return self.b(h)


def network(make: Callable[[], Any], step: Callable[[Net, Tensor], Tensor]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 6), Net(make, step)).eval()


def outputs(model: nn.Module) -> list[Tensor]:
    torch.manual_seed(5)
    return [model(x) for x in RUNS]


@torch.no_grad()
@pytest.mark.parametrize("kind", KEPT)
def test_a_module_with_state_is_kept_whole_with_a_copy_of_it(kind: str) -> None:
    wanted, model = outputs(network(*KEPT[kind])), network(*KEPT[kind])
    plan = ft.plan(model, RUNS[0])
    assert (plan.num_free, [o.node for o in plan.opaque]) == (7, ["_3"])
    moved = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for network_ in (moved, model):  # neither the plan nor the other has touched it
        assert all(map(torch.equal, outputs(network_), wanted))


@torch.no_grad()
def test_what_is_only_left_in_an_object_costs_nothing() -> None:
    def step(net: Net, h: Tensor) -> Tensor:
        net.held.h, net.held.n = h.mean(0), net.held.n + 1
        return h

    model = network(State, step)
    plan = ft.plan(model, RUNS[0])
    assert not plan.opaque
    assert model[3].held.h is None  # type: ignore[union-attr]
    assert model[3].held.n == 0  # type: ignore[union-attr]
    moved = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert all(map(torch.equal, outputs(moved), outputs(model)))


@pytest.mark.parametrize("what", ["class", "global", "default"])
def test_what_the_program_shares_is_refused(what: str) -> None:
    with pytest.raises(ft.CaptureError, match="which the whole program shares"):
        ft.plan(Refused(lambda: what, drawn).eval(), RUNS[0])
    assert GLOBAL == {"n": 0}


def test_a_generator_of_pythons_is_refused_and_not_taken_from() -> None:
    model = network(lambda: (float(i) for i in range(9)), next_of)
    with pytest.raises(ft.CaptureError, match="a generator, which cannot be copied"):
        ft.plan(model, RUNS[0])
    assert next(model[3].held) == 0.0  # type: ignore[union-attr,arg-type]


@torch.no_grad()
def test_two_modules_that_share_state_are_kept_whole_together() -> None:
    torch.manual_seed(0)
    step = remembered(lambda held: held)
    shared = State()
    first, second = Net(lambda: shared, step), Net(lambda: shared, step)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Sequential(first, nn.Linear(2, 6), second)).eval()
    plan = ft.plan(model, RUNS[0])
    assert [o.node for o in plan.opaque] == ["_2"]
    moved = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    got = outputs(moved)
    assert all(map(torch.equal, got, outputs(model)))


class Decides(Net):
    """It is kept whole anyway, as its data decide, before the trace comes to see what it leaves."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.b(self.step(self, h * 2 if h.sum() > 5 else h * 3))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["an object", "an iterator in an object", "itertools.count", "torch.Generator"])
def test_a_module_that_is_kept_whole_for_another_reason(kind: str) -> None:
    def made() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 6), Decides(*KEPT[kind])).eval()

    wanted, model = outputs(made()), made()
    plan = ft.plan(model, RUNS[0])
    assert plan.num_free == 7
    moved = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert all(map(torch.equal, outputs(moved), wanted))
    assert all(map(torch.equal, outputs(model), wanted))
