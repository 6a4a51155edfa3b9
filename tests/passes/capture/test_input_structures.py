"""Inputs of any structure: a plan is right on them, or ends in an error of the project's own."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import enum
import fractions
import functools
import itertools
import operator
import pathlib
import re
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxteleport as ft

pytestmark = pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")


class Pair(NamedTuple):
    one: Any
    two: Any


@dataclasses.dataclass
class Record:
    one: Any
    two: Any = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    one: Any
    two: Any


@dataclasses.dataclass(slots=True)
class Slotted:
    one: Any
    two: Any


class Plain:
    def __init__(self, one: Any, two: Any) -> None:
        self.one, self.two = one, two


class Registered(Plain):
    """Registered for pytree."""


class Listed(list[Any]):
    """A list of a class of its own."""


@dataclasses.dataclass
class Output(collections.OrderedDict[str, Any]):
    """Like transformers' ModelOutput: a dictionary with fields."""

    one: Any = None
    two: Any = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)


class Colour(enum.Enum):
    RED = 1


pytree.register_pytree_node(Registered, lambda x: ([x.one, x.two], None), lambda parts, _: Registered(*parts))

CONTAINERS: dict[str, Callable[[Any, Any], Any]] = {
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (a, b),
    "dictionary": lambda a, b: {"one": a, "two": b},
    "numbered": lambda a, b: {0: a, (1, 2): b},
    "ordered": lambda a, b: collections.OrderedDict(one=a, two=b),
    "default": lambda a, b: collections.defaultdict(list, one=a, two=b),
    "named tuple": Pair,
    "data class": Record,
    "frozen": Frozen,
    "slots": Slotted,
    "namespace": lambda a, b: types.SimpleNamespace(one=a, two=b),
    "object": Plain,
    "registered": Registered,
    "queue": lambda a, b: collections.deque([a, b]),
    "own list": lambda a, b: Listed([a, b]),
    "user list": lambda a, b: collections.UserList([a, b]),
    "user dictionary": lambda a, b: collections.UserDict(one=a, two=b),
    "output": Output,
    "mapping": lambda a, b: types.MappingProxyType({"one": a, "two": b}),
}
LEAVES: dict[str, Callable[[], Any]] = {
    "floats": lambda: torch.randn(3, 4),
    "wide": lambda: torch.randn(3, 4, dtype=torch.float64),
    "integers": lambda: torch.arange(3),
    "booleans": lambda: torch.tensor([True, False, True]),
    "empty": lambda: torch.zeros(0, 4),
    "number in a tensor": lambda: torch.tensor(2.0),
    "sparse": lambda: torch.eye(4).to_sparse(),
    "parameter": lambda: nn.Parameter(torch.randn(3, 4)),
    "None": lambda: None,
    "text": lambda: "add",
    "bytes": lambda: b"add",
    "int": lambda: 2,
    "float": lambda: 0.5,
    "nan": lambda: float("nan"),
    "bool": lambda: True,
    "complex": lambda: 1j,
    "enum": lambda: Colour.RED,
    "dtype": lambda: torch.float32,
    "device": lambda: torch.device("cpu"),
    "size": lambda: torch.Size([3, 4]),
    "slice": lambda: slice(0, 2),
    "range": lambda: range(3),
    "ellipsis": lambda: ...,
    "set": lambda: {1, 2},
    "frozen set": lambda: frozenset({"a"}),
    "array": lambda: np.arange(3.0),
    "numpy number": lambda: np.float32(2),
    "numpy random": lambda: np.random.default_rng(0),
    "function": lambda: torch.tanh,
    "own function": lambda: doubled,
    "lambda": lambda: lambda x: x + 1,
    "partial": lambda: functools.partial(torch.mul, other=2),
    "method": lambda: Plain(1, 2).__eq__,
    "module": lambda: nn.Linear(4, 4),
    "class": lambda: Plain,
    "generator": lambda: (torch.randn(3, 4) for _ in range(2)),
    "iterator": lambda: iter([torch.randn(3, 4)]),
    "counter": lambda: itertools.count(),
    "random generator": lambda: torch.Generator().manual_seed(0),
    "fraction": lambda: fractions.Fraction(1, 2),
    "path": lambda: pathlib.PurePath("a"),
    "date": lambda: datetime.date(2026, 1, 1),
    "pattern": lambda: re.compile("a"),
    "lock": threading.Lock,
    "error": lambda: ValueError("a"),
    "Python module": lambda: operator,
    "object": object,
    "not implemented": lambda: NotImplemented,
}


def doubled(x: Tensor) -> Tensor:
    return x * 2


Structure = tuple[str, Any]
STRUCTURES: st.SearchStrategy[Structure] = st.recursive(
    st.sampled_from(sorted(LEAVES)).map(lambda name: ("leaf", name)),
    lambda inner: st.tuples(st.sampled_from(sorted(CONTAINERS)), st.tuples(inner, inner)),
    max_leaves=4,
)


def made(structure: Structure) -> Any:
    kind, of = structure
    return LEAVES[of]() if kind == "leaf" else CONTAINERS[kind](made(of[0]), made(of[1]))


class Net(nn.Module):
    """Takes a structure apart, and uses what it can use of what is in there."""

    def __init__(self, returns: bool) -> None:
        super().__init__()
        self.returns = returns
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor, given: Any = None) -> Any:
        h = self.a(x)
        for part in _parts(given):
            h = self.used(h, part)
        out = self.c(torch.relu(self.b(h)))
        return (out, given) if self.returns else out

    def used(self, h: Tensor, part: Any) -> Tensor:
        if isinstance(part, Tensor):
            if part.layout is torch.strided and part.is_floating_point() and part.shape[-1:] == (4,):
                return h + self.a(part.to(h.dtype)).sum(0)
            return h * part.sum().to(h.dtype) if part.layout is torch.strided else h
        if isinstance(part, str):
            return h + 1 if part == "add" else h
        if isinstance(part, bool) or part is None:
            return h * 2 if part else h
        if isinstance(part, (int, float)):
            return h * part if part == part else h
        if isinstance(part, (types.FunctionType, types.BuiltinFunctionType, functools.partial)):
            called: Tensor = part(h)
            return called
        return h + self.a(next(part)).sum(0) if isinstance(part, (types.GeneratorType, type(iter([])))) else h


def _parts(x: Any) -> Iterator[Any]:
    if isinstance(x, (list, tuple, collections.deque, collections.UserList)):
        for part in x:
            yield from _parts(part)
    elif isinstance(x, (dict, collections.UserDict, types.MappingProxyType)):
        for key in x:
            yield from _parts(x[key])
    elif isinstance(x, (Record, Frozen, Slotted, Plain, types.SimpleNamespace)):
        yield from _parts(x.one)
        yield from _parts(x.two)
    else:
        yield x


def check(structure: Structure, returns: bool, mode: Any) -> None:
    """A plan is equal to the model on these inputs, or is refused."""
    torch.manual_seed(0)
    model = ft.randomize(Net(returns)).eval()
    x = torch.randn(3, 4)
    try:
        plan = ft.plan(model, x, made(structure), mode=mode)
    except ft.TeleportError:
        return
    emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for size in (3, 5):
        y = torch.randn(size, 4)
        outs = []
        for network in (model, emitted):
            torch.manual_seed(1)
            ours = made(structure)
            with torch.no_grad():
                try:
                    outs.append(network(y, ours))
                except ft.GuardError:
                    outs.append(None)
        expected, found = outs
        if found is None:
            continue
        if returns:
            assert type(expected[1]) is type(found[1])
            expected, found = expected[0], found[0]
        assert torch.equal(expected, found)
    with contextlib.suppress(ft.TeleportError):
        assert ft.verify(model, emitted, x, made(structure)).passed


@pytest.mark.parametrize("returns", [False, True])
@pytest.mark.parametrize("name", LEAVES)
def test_each_leaf(name: str, returns: bool) -> None:
    check(("leaf", name), returns, "full" if returns else "weights")


@pytest.mark.parametrize("inside", ["floats", "text", "own function"])
@pytest.mark.parametrize("name", CONTAINERS)
def test_each_container(name: str, inside: str) -> None:
    check((name, (("leaf", inside), ("leaf", "floats"))), True, "full")


@settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(STRUCTURES, st.booleans(), st.sampled_from(["full", "weights"]))
def test_any_structure(structure: Structure, returns: bool, mode: str) -> None:
    check(structure, returns, mode)
