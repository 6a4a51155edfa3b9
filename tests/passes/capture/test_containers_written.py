"""Lists, dictionaries and data classes among the inputs that forward changes: so does the emitted network."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxteleport as ft

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


CASES = {
    "append": (appends, [X], 8),
    "set": (sets, {"x": X, "n": 0}, 0),  # the hidden layer itself is given to who calls
    "pop": (pops, {"x": X}, 8),
    "a list in a dictionary": (appends_inside, {"x": X, "kept": []}, 8),
    "a list in a tuple": (appends_in_a_tuple, (X, []), 8),
    "a data class": (sets_a_field, Record(X), 8),
    "returned": (returns_it, {"x": X}, 8),
}


def parts(x: Any) -> list[Any]:
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
