"""State in objects of the user's, in streams, in namespaces: kept whole with an own copy, or refused."""

from __future__ import annotations

import collections
import dataclasses
import heapq
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
COUNTER, ARRAY = collections.Counter(), np.zeros(2)


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


def plus_one(at: Any) -> Callable[[Net, Tensor], Tensor]:
    """Counts in what it holds, at a place, and multiplies by that."""

    def step(net: Net, h: Tensor) -> Tensor:
        net.held[at] += 1
        return h * float(net.held[at])

    return step


def past_assignments(net: Net, h: Tensor) -> Tensor:
    before = vars(net).get("kept")
    vars(net)["kept"] = h.mean(0)
    return h if before is None else h + before


def counted_past_assignments(net: Net, h: Tensor) -> Tensor:
    net.__dict__["n"] = net.__dict__.get("n", 0) + 1
    return h * net.n  # type: ignore[operator]


def set_as_an_object(net: Net, h: Tensor) -> Tensor:
    before = getattr(net, "kept", None)
    object.__setattr__(net, "kept", h.mean(0))
    return h if before is None else h + before


def made_buffer(net: Net, h: Tensor) -> Tensor:
    before, net.buffer = net.buffer, h.mean(0)
    return h if before is None else h + before


def changed_buffer(net: Net, h: Tensor) -> Tensor:
    net.buffer = torch.ones(8) if net.buffer is None else net.buffer * 2  # type: ignore[has-type]
    return h * net.buffer


def replaced(change: Callable[[Any], Any], of: Callable[[Any], Any]) -> Callable[[Net, Tensor], Tensor]:
    """Puts another value in the place of what it holds."""

    def step(net: Net, h: Tensor) -> Tensor:
        net.held = change(net.held)
        return h * of(net.held)

    return step


def replaced_by_object(net: Net, h: Tensor) -> Tensor:
    before, net.held = net.held, Record([h.mean(0)])
    return h + before.kept[0] if before.kept else h


class Listed(list[Any]):
    pass


def moved_to_end(net: Net, h: Tensor) -> Tensor:
    net.held.move_to_end(next(iter(net.held)))
    return h * net.held[next(iter(net.held))]


def held_tensor(net: Net, h: Tensor) -> Tensor:
    return h * net.held.add_(1)


def held_rows(net: Net, h: Tensor) -> Tensor:
    out = h + net.held[1]
    net.held[1] = h.mean(0)
    return out


def once(net: Net, h: Tensor) -> Tensor:
    if net.held[0] == 0:
        net.held[0] = 2
        return h
    return h * 2


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
    "a counter": (collections.Counter, plus_one("a")),
    "a counter that is added to": (collections.Counter, lambda net, h: (net.held.update("ab"), h * net.held["b"])[1]),
    "a counter of a copy": (
        lambda: collections.Counter(a=3),
        lambda net, h: (net.held.update("a"), h * net.held.most_common(1)[0][1])[1],
    ),
    "a queue": (collections.deque, lambda net, h: (net.held.append(1), h * len(net.held))[1]),
    "a queue of tensors": (
        lambda: collections.deque(maxlen=2),
        lambda net, h: (net.held.append(h.mean(0)), h + net.held[0])[1],
    ),
    "an order": (lambda: collections.OrderedDict(a=1.0, b=2.0, c=3.0), moved_to_end),
    "a list of a class": (Listed, lambda net, h: (net.held.append(1), h * len(net.held))[1]),
    "a table around a dictionary": (lambda: collections.UserDict(a=0), plus_one("a")),
    "an array": (lambda: np.zeros(3), plus_one(0)),
    "an array in an object": (
        lambda: SimpleNamespace(hist=np.zeros(3)),
        lambda net, h: (net.held.hist.__iadd__(1), h * float(net.held.hist.sum()))[1],
    ),
    "an array that decides": (lambda: np.zeros(1), once),
    "an array, replaced": (lambda: np.zeros(1), replaced(lambda held: held + 1, lambda held: float(held[0]))),
    "bytes": (lambda: bytearray(3), plus_one(0)),
    "a tensor": (lambda: torch.zeros(8), held_tensor),
    "rows of a tensor": (lambda: torch.zeros(2, 8), held_rows),
    "a tensor, replaced": (lambda: torch.zeros(8), replaced(lambda held: held + 1, lambda held: held)),
    "a list, replaced": (list, replaced(lambda held: [*held, 1], len)),
    "a tuple, replaced": (lambda: (0,), replaced(lambda held: (held[0] + 1,), lambda held: held[0])),
    "an object, replaced": (Record, replaced_by_object),
    "a heap": (lambda: [5.0, 2.0, 3.0], lambda net, h: h * heapq.heapreplace(net.held, float(h.shape[0]))),
    "vars": (State, past_assignments),
    "__dict__": (State, counted_past_assignments),
    "object.__setattr__": (State, set_as_an_object),
    "a buffer that is made": (State, made_buffer),
    "a buffer that is changed": (State, changed_buffer),
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
    seen = np.zeros(2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        if self.held == "class":
            h = counted_by_class(self, h)
        if self.held == "global":
            h = counted_globally(self, h)
        if self.held == "a counter of all":
            COUNTER["n"] += 1
            h = h * COUNTER["n"]
        if self.held == "an array of all":
            ARRAY[0] += 1
            h = h * float(ARRAY[0])
        if self.held == "an array of the class":
            self.seen[0] += 1
            h = h * float(self.seen[0])
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


@pytest.mark.parametrize(
    "what", ["class", "global", "default", "a counter of all", "an array of all", "an array of the class"]
)
def test_what_the_program_shares_is_refused(what: str) -> None:
    with pytest.raises(ft.CaptureError, match="which the whole program shares"):
        ft.plan(Refused(lambda: what, drawn).eval(), RUNS[0])
    assert (GLOBAL, COUNTER, ARRAY.tolist(), Refused.seen.tolist()) == ({"n": 0}, {}, [0, 0], [0, 0])


class Shared(Net):
    """Writes to an array that lies in the memory of another one, or of a buffer."""

    def __init__(self, of: str) -> None:
        super().__init__(lambda: np.zeros(8, np.float32), lambda net, h: h)
        self.of, self.view = of, self.held[2:]
        self.register_buffer("twin", torch.from_numpy(self.held))

    def forward(self, x: Tensor) -> Tensor:
        (self.view if self.of == "a view" else self.held).__iadd__(1)
        seen = self.twin if self.of == "a buffer" else float(self.held.sum())
        return self.b(torch.relu(self.a(x)) * seen)


@pytest.mark.parametrize("of", ["a view", "a buffer"])
def test_arrays_in_one_memory_are_refused(of: str) -> None:
    model = Shared(of).eval()
    with pytest.raises(ft.CaptureError, match="in the memory of another array"):
        ft.plan(model, RUNS[0])
    assert not model.held.any()


@torch.no_grad()
def test_what_is_made_once_costs_nothing() -> None:
    makers: list[Callable[[Tensor], Any]] = [
        lambda h: torch.ones(8) * 2, lambda h: torch.arange(h.shape[1]), lambda h: np.ones(8, np.float32)
    ]  # fmt: skip
    for make in makers:

        def step(net: Net, h: Tensor, make: Callable[[Tensor], Any] = make) -> Tensor:
            if net.held is None:
                net.held = make(h)
            return h * (net.held if isinstance(net.held, Tensor) else torch.from_numpy(net.held))

        model = network(lambda: None, step)
        plan = ft.plan(model, RUNS[0])
        assert not plan.opaque
        moved = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
        assert all(map(torch.equal, outputs(moved), outputs(model)))


@torch.no_grad()
@pytest.mark.parametrize("name", ["hist", "log"])
def test_an_array_that_changed_since_the_plan(name: str) -> None:
    class Two(Net):
        def __init__(self) -> None:
            super().__init__(lambda: None, drawn_once)
            self.hist, self.log = np.ones(2), bytearray(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)) * float(self.hist[0]) * self.log[0])

    model = Two().eval()
    plan = ft.plan(model, RUNS[0], mode="weights")
    vars(model)[name][0] += 1
    with pytest.raises(ft.ModelError, match=f"the setting '{name}'"):
        plan.apply_(plan.sample(0.9, "inter", exact=True, seed=0))


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
