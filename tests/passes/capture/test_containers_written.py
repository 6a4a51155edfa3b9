"""Lists, dictionaries and data classes among the inputs that forward changes: so does the emitted network."""

from __future__ import annotations

import collections
import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxteleport as ft
from fxteleport.errors import GuardError

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


@dataclasses.dataclass
class Record:
    x: Tensor
    kept: list[Any] = dataclasses.field(default_factory=list)
    out: Any = 0


class Net(nn.Module):
    def __init__(self, step: Callable[[Net, Any], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.step = nn.Linear(6, 8), nn.Linear(8, 2), step

    def hidden(self, x: Tensor) -> Tensor:
        return torch.relu(self.a(x))

    def forward(self, given: Any) -> Any:
        return self.step(self, given)


def appends(net: Net, given: Any) -> Tensor:
    h = net.hidden(given[0])
    given.append(net.b(h))
    return net.b(h)


def sets(net: Net, given: Any) -> Tensor:
    h = net.hidden(given["x"])
    given["y"], given["n"] = h, given["n"] + 1
    return net.b(h)


def pops(net: Net, given: Any) -> Tensor:
    return net.b(net.hidden(given.pop("x")))


def appends_inside(net: Net, given: Any) -> Tensor:
    h = net.hidden(given["x"])
    given["kept"].append(net.b(h))
    return net.b(h)


def appends_in_a_tuple(net: Net, given: Any) -> Tensor:
    h = net.hidden(given[0])
    given[1].append(net.b(h))
    return net.b(h)


def sets_a_field(net: Net, given: Any) -> Tensor:
    h = net.hidden(given.x)
    given.out = net.b(h)
    given.kept.append(given.out)
    return given.out


def returns_it(net: Net, given: Any) -> Any:
    given["y"] = net.b(net.hidden(given["x"]))
    return given


class Kept(list[Any]):
    """A list with an attribute."""

    n = 0


class Table(dict[str, Any]):
    pass


def appends_and_counts(net: Net, given: Any) -> Tensor:
    given.n = given.n + 1
    return appends(net, given) * given.n


def counts(net: Net, given: Any) -> Tensor:
    given["seen"]["a"] += 1
    given["ids"].add(given["seen"]["a"])
    return net.b(net.hidden(given["x"])) * given["seen"]["a"]


def moves_to_end(net: Net, given: Any) -> Tensor:
    given.move_to_end("x")
    return net.b(net.hidden(given["x"])) + given["y"]


CASES = {
    "append": (appends, [X], 8),
    "set": (sets, {"x": X, "n": 0}, 0),  # the hidden layer itself is given to who calls
    "pop": (pops, {"x": X}, 8),
    "a list in a dictionary": (appends_inside, {"x": X, "kept": []}, 8),
    "a list in a tuple": (appends_in_a_tuple, (X, []), 8),
    "a data class": (sets_a_field, Record(X), 8),
    "a queue": (appends, collections.deque([X, X], maxlen=2), 8),
    "a queue that turns": (
        lambda net, given: (given.rotate(1), net.b(net.hidden(given[0])))[1],
        collections.deque([X] * 2),
        8,
    ),
    "a list of a class": (appends_and_counts, Kept([X]), 8),
    "a dictionary of a class": (sets, Table(x=X, n=0), 0),
    "a counter and a set": (counts, {"x": X, "seen": collections.Counter(a=2), "ids": {1}}, 8),
    "an order": (moves_to_end, collections.OrderedDict(x=X, y=torch.ones(2)), 8),
    "returned": (returns_it, {"x": X}, 8),
}


def parts(x: Any) -> list[Any]:
    if isinstance(x, (list, collections.deque)):
        return [type(x).__name__, *(getattr(x, "__dict__", {}).items()), *(y for part in x for y in parts(part))]
    if isinstance(x, dict):
        return [type(x).__name__, *(y for key, part in x.items() for y in (key, *parts(part)))]
    if dataclasses.is_dataclass(x):
        return [y for f in dataclasses.fields(x) for y in parts(getattr(x, f.name))]
    return pytree.tree_leaves(x)


def assert_same(a: Any, b: Any) -> None:
    ones, others = parts(a), parts(b)
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


@torch.no_grad()
@pytest.mark.parametrize("kind", CASES)
def test_they_are_changed_alike(kind: str) -> None:
    step, example, free = CASES[kind]
    model, given = Net(step).eval(), copy.deepcopy(example)
    plan = ft.plan(model, given)
    assert_same(given, example)  # planning changes nothing
    assert (plan.num_free, list(plan.opaque)) == (free, [])
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    one, other = copy.deepcopy(example), copy.deepcopy(example)
    inside = other["kept"] if kind == "a list in a dictionary" else None
    assert_same(model(one), network(other))
    assert_same(one, other)
    assert inside is None or inside is other["kept"]


class Two(nn.Module):
    """Changes the one, and reads the other."""

    def __init__(self, read_only: bool) -> None:
        super().__init__()
        self.a, self.b, self.read_only = nn.Linear(6, 8), nn.Linear(8, 2), read_only

    def forward(self, x: Tensor, one: list[Any], other: list[Any]) -> Tensor:
        if not self.read_only:
            one.append(1)
        return self.b(torch.relu(self.a(x))) * len(other)


@torch.no_grad()
@pytest.mark.parametrize("planned_as_one", [False, True])
def test_one_object_for_two_inputs(planned_as_one: bool) -> None:
    def given(as_one: bool) -> tuple[list[Any], list[Any]]:
        one = [1]
        return one, one if as_one else [1]

    for read_only in (False, True):
        model = Two(read_only).eval()
        plan = ft.plan(model, X, *given(planned_as_one))
        network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
        assert torch.equal(network(X, *given(planned_as_one)), model(X, *given(planned_as_one)))
        if read_only:
            assert torch.equal(network(X, *given(not planned_as_one)), model(X, *given(not planned_as_one)))
        else:
            with pytest.raises(GuardError, match="forward changes its inputs"):
                network(X, *given(not planned_as_one))


@torch.no_grad()
def test_a_part_that_is_given_twice() -> None:
    class Appends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 2)

        def forward(self, x: Tensor, given: Any) -> Tensor:
            given["one"].append(1)
            return self.a(x) * len(given["other"])

    def given() -> Any:
        one = [1]
        return {"one": one, "other": one}

    model = Appends().eval()
    plan = ft.plan(model, X, given())
    assert torch.equal(plan.rewrite(plan.sample(exact=True, seed=0))(X, given()), model(X, given()))


def test_attributes_of_containers_are_guarded() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 2)

        def forward(self, given: Any) -> Tensor:
            return self.a(given[0]) * given.n

    model, lists = Reads().eval(), [Kept([X]), Kept([X]), Kept([X])]
    for given, n in zip(lists, (2, 3, torch.ones(2)), strict=True):
        given.n = n  # type: ignore[assignment]
    plan = ft.plan(model, lists[0])
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    with pytest.raises(GuardError):
        network(lists[1])
    with pytest.raises(ft.CaptureError, match="hold it in an item"):
        ft.plan(model, lists[2])


def test_how_long_a_queue_may_be_is_guarded() -> None:
    model = Net(appends).eval()
    plan = ft.plan(model, collections.deque([X], maxlen=1))
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    with pytest.raises(GuardError):
        network(collections.deque([X], maxlen=2))
