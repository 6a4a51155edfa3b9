"""Code that assigns to what an opaque part gives, that catches the error of a call, and output classes with fields."""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

pytestmark = pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")


@dataclass
class Output(collections.OrderedDict):  # type: ignore[type-arg]
    """As diffusers' and transformers': a dictionary with fields, some of which must be given."""

    first: Tensor
    second: Tensor | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is not None:
                super().__setitem__(field.name, getattr(self, field.name))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in self:
            super().__setitem__(name, value)


@dataclass
class Record:
    first: Tensor
    second: Tensor


class Tower(nn.Module):
    def __init__(self, make: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.make = nn.Linear(8, 3), make

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x)
        return self.make(y, y + 1 if y.sum() > 0 else y)


def attribute(out: Any, value: Tensor) -> Tensor:
    out.first = value
    return out.first + out.second


def item(out: Any, value: Tensor) -> Tensor:
    out["first"] = value
    return out["first"] + out["second"]


def both(out: Any, value: Tensor) -> Tensor:
    out.first = value
    return out["first"] + sum(out.values())


def new_item(out: Any, value: Tensor) -> Tensor:
    out["third"] = value
    return sum(out[key] for key in out)  # type: ignore[return-value]


ASSIGNED = [
    (Output, attribute), (Output, both), (Record, attribute),
    (lambda a, b: {"first": a, "second": b}, item), (lambda a, b: {"first": a, "second": b}, new_item),
]  # fmt: skip


@pytest.mark.parametrize(("make", "assign"), ASSIGNED)
def test_what_an_opaque_part_gives_is_assigned_to(
    make: Callable[[Tensor, Tensor], Any], assign: Callable[[Any, Tensor], Tensor]
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.project = Tower(make), nn.Linear(8, 3)
            self.other = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))

        def forward(self, x: Tensor) -> Tensor:
            return assign(self.tower(x), self.project(x)) + self.other(x)

    torch.manual_seed(0)
    model, x = ft.randomize(Net()).eval(), torch.randn(2, 8)
    plan = ft.plan(model, x)
    assert [o.node for o in plan.opaque] == ["tower"]
    assert plan.num_free == 6
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    for scale in (1.0, -1.0):
        assert torch.equal(network(x * scale), model(x * scale))


def table(a: Tensor, b: Tensor) -> Any:
    made: Any = collections.defaultdict(list)
    made["a"], made["b"] = a, [b]
    return made


OUTPUTS: list[Callable[[Tensor, Tensor], Any]] = [
    Output, lambda a, b: Output(first=a), table,
    lambda a, b: [Output(a, b), {"c": Output(b)}], lambda a, b: collections.OrderedDict(a=a, b=b),
]  # fmt: skip


@pytest.mark.parametrize("make", OUTPUTS)
def test_outputs_of_any_class(make: Callable[[Tensor, Tensor], Any]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)) for _ in range(2))

        def forward(self, x: Tensor) -> Any:
            return make(self.a(x), self.b(x))

    model, x = ft.randomize(Net()).eval(), torch.randn(2, 8)
    plan = ft.plan(model, x)
    assert plan.num_free >= 6
    found, expected = plan.rewrite(plan.sample(exact=True, seed=0))(x), model(x)
    assert type(found) is type(expected)
    assert _flat(found) == _flat(expected)


def _flat(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.tolist()
    if isinstance(x, dict):
        attributes = {k: _flat(v) for k, v in getattr(x, "__dict__", {}).items()}
        return type(x).__name__, {k: _flat(v) for k, v in x.items()}, attributes
    return [_flat(v) for v in x] if isinstance(x, (list, tuple)) else x


class Forgives(nn.Module):
    """speechbrain's containers: `try: layer(x, lengths=...) except TypeError: layer(x)`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            try:
                x = layer(x, lengths=None)
            except TypeError:
                x = layer(x)
        return x


class Views(nn.Module):
    """Whether a view is possible depends on sizes: the emitted network makes sure that it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x)).transpose(0, 1)
        try:
            y = y.view(-1)
        except RuntimeError:
            y = y.reshape(-1)
        return self.b(y.reshape(6, -1).t())


@pytest.mark.parametrize("kind", [Forgives, Views])
def test_an_error_that_code_catches(kind: type[nn.Module], assert_exact: Callable[..., ft.Plan]) -> None:
    plan = assert_exact(kind(), torch.randn(2, 8))
    assert plan.num_free == 6
    assert not plan.opaque
    model, network = plan.captured.model, plan.rewrite(plan.sample(exact=True, seed=0))
    x = torch.randn(5, 8)
    assert torch.equal(network(x), model(x))
    if kind is Views:
        with pytest.raises(ft.GuardError, match="'view' fails"):
            network(torch.randn(1, 8))
