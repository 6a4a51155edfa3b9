"""Inputs of any structure: what decided the trace is insisted on, and nothing else is."""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@dataclass
class Batch:
    x: Tensor
    times: Any = 2
    more: Any = None


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    times: float = 2.0


class Part(enum.Enum):
    FIRST = 1


class Reads(nn.Module):
    """Two layers on what a function reads out of an input."""

    def __init__(self, read: Callable[[Callable[[Tensor], Tensor], Any], Any]) -> None:
        super().__init__()
        self.read, self.a, self.b = read, nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, given: Any) -> Any:
        return self.read(lambda x: self.b(torch.relu(self.a(x))), given)


# What reads an input, and inputs like it of other numbers; then one that is not like it.
STRUCTURED: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Tensor], Any], Callable[[Tensor], Any]]] = {
    "number in a list": (lambda f, d: f(d[0]) * d[1], lambda x: [x, 2], lambda x: [x, 3]),
    "number in a tuple": (lambda f, d: f(d[0]) * d[1], lambda x: (x, 2), lambda x: (x, 2.5)),
    "text in a dictionary": (
        lambda f, d: f(d["x"]) if d["how"] == "a" else -f(d["x"]),
        lambda x: {"x": x, "how": "a"},
        lambda x: {"x": x, "how": "b"},
    ),
    "None": (
        lambda f, d: f(d["x"]) if d["mask"] is None else f(d["x"] + 1),
        lambda x: {"x": x, "mask": None},
        lambda x: {"x": x, "mask": x},
    ),
    "a tensor": (
        lambda f, d: f(d["x"]) if d["mask"] is None else f(d["x"] + d["mask"]),
        lambda x: {"x": x, "mask": x},
        lambda x: {"x": x, "mask": None},
    ),
    "keys": (lambda f, d: f(d["x"]) * len(d), lambda x: {"x": x}, lambda x: {"x": x, "y": x}),
    "keys of an enumeration": (
        lambda f, d: f(d[Part.FIRST]) * len(d),
        lambda x: {Part.FIRST: x, (1, 2): 3},
        lambda x: {Part.FIRST: x, (1, 2): 4},
    ),
    "missing keys": (lambda f, d: f(d["x"]) * len(d), lambda x: {"x": x, "y": x}, lambda x: {"x": x}),
    "length": (lambda f, d: sum(map(f, d)), lambda x: [x, x + 1], lambda x: [x, x, x]),
    "number below": (
        lambda f, d: f(d["in"][0]["x"]) * d["in"][1],
        lambda x: {"in": [{"x": x}, 2]},
        lambda x: {"in": [{"x": x}, 4]},
    ),
    "data class": (lambda f, d: f(d.x) * d.times, Batch, lambda x: Batch(x, 3)),
    "data class of None": (lambda f, d: f(d.x if d.more is None else d.more), Batch, lambda x: Batch(x, more=x + 1)),
    "data class of a dictionary": (
        lambda f, d: f(d.x + d.more["y"]),
        lambda x: Batch(x, more={"y": x}),
        lambda x: Batch(x, more={"y": 1}),
    ),
    "frozen data class in a list": (
        lambda f, d: f(d[0].x) * d[0].times,
        lambda x: [Frozen(x)],
        lambda x: [Frozen(x, 3)],
    ),
    "deque": (lambda f, d: sum(map(f, d)), lambda x: deque([x, x + 1]), lambda x: deque([x])),
    "OrderedDict": (
        lambda f, d: f(next(iter(d.values()))) * len(d),
        lambda x: OrderedDict(x=x, y=x),
        lambda x: OrderedDict(x=x, z=x),
    ),
    "number of numpy's": (lambda f, d: f(d[0]) * d[1], lambda x: [x, np.float64(2)], lambda x: [x, np.int64(3)]),
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_inputs(name: str, x: Tensor) -> None:
    """Tensors may have other values, and nothing else: what decided the trace is insisted on."""
    read, like, unlike = STRUCTURED[name]
    model = ft.randomize(Reads(read).eval())
    plan = ft.plan(model, like(x))
    assert not plan.opaque
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    other = like(torch.randn_like(x))
    assert torch.equal(network(other), model(other))
    assert ft.verify(model, network, like(x)).bitwise_equal
    with pytest.raises(ValueError, match="capture it again"):
        network(unlike(x))


class Hidden:
    def __init__(self, x: Tensor) -> None:
        self.x, self.names = x, iter("ab")


@pytest.mark.parametrize("wrap", [Hidden, lambda x: [Hidden(x), x], lambda x: {"a": {"b": Hidden(x)}, "c": x}])
def test_what_more_is_in_than_attributes_say_is_no_input(wrap: Callable[[Tensor], Any], x: Tensor) -> None:
    """A tensor that an object hides would be a constant of the network."""
    with pytest.raises(ft.CaptureError, match="is a Hidden, which no graph can hold"):
        ft.plan(Reads(lambda f, d: f(x)), wrap(x))


@pytest.mark.parametrize("value", [float("nan"), ...])
def test_a_plain_value_is_like_itself(value: Any, x: Tensor) -> None:
    model = Reads(lambda f, d: f(d[0]))
    plan = ft.plan(model, [x, value])
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    assert ft.verify(model, network, [x, value]).bitwise_equal
    with pytest.raises(ft.GuardError, match="capture"):
        network([x, 1.5])


RANKS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "ndim": lambda f, x: f(x) if x.ndim == 2 else f(x) * 2,
    "dim": lambda f, x: f(x) if x.dim() == 2 else f(x) * 2,
    "of what is computed": lambda f, x: f(x) if f(x).ndim == 2 else f(x) * 2,
    "length of a shape": lambda f, x: f(x) * len(x.shape),
    "walk over a shape": lambda f, x: f(x) * sum(1 for _ in x.shape),
    "slice of a shape": lambda f, x: f(x).reshape(*x.shape[:-1], 3, 1),
    "in a list": lambda f, x: f([x][0]) * x.ndim,
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", RANKS)
def test_a_rank_that_python_asked_for_is_insisted_on(name: str, nested: bool, x: Tensor) -> None:
    read = (lambda f, d: RANKS[name](f, d["x"])) if nested else RANKS[name]
    model = ft.randomize(Reads(read).eval())
    given = (lambda x: {"x": x}) if nested else (lambda x: x)
    plan = ft.plan(model, given(x))
    assert not plan.opaque
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    assert torch.equal(network(given(x[:1])), model(given(x[:1])))
    with pytest.raises(ValueError, match=r"captured with 2 axes of .*, got 3: capture it again"):
        network(given(x[None]))


def test_where_no_one_asks_any_rank_will_do(x: Tensor) -> None:
    model = ft.randomize(Reads(lambda f, x: f(x)).eval())
    plan = ft.plan(model, x)
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    assert torch.equal(network(x[None]), model(x[None]))


TYPES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "dtype": lambda f, x: f(x.float() / 255) if x.dtype == torch.uint8 else f(x),
    "dtype among others": lambda f, x: f(x.float() / 255) if x.dtype in (torch.int64, torch.uint8) else f(x),
    "dtype as a key": lambda f, x: f(x.float() / {torch.uint8: 255, torch.float32: 1}[x.dtype]),
    "method": lambda f, x: f(x) if x.is_floating_point() else f(x.float() / 255),
    "function": lambda f, x: f(x) if torch.is_floating_point(x) else f(x.float() / 255),
}


@pytest.mark.parametrize("name", TYPES)
def test_a_type_that_python_asked_for_is_insisted_on(name: str, x: Tensor) -> None:
    """Pictures in bytes, or as fractions; fractions of another width will do."""
    model = ft.randomize(Reads(TYPES[name]).eval())
    pictures = torch.randint(0, 255, (2, 4), dtype=torch.uint8)
    for given, other in ((pictures, x), (x, pictures)):
        plan = ft.plan(model, given)
        assert not plan.opaque
        network = plan.rewrite(plan.sample(exact=True, seed=0))
        assert torch.equal(network(given.flip(0)), model(given.flip(0)))
        with pytest.raises(ValueError, match="capture it again"):
            network(other)
    if name != "dtype as a key":
        assert torch.equal(network.double()(x.double()), model.double()(x.double()))
