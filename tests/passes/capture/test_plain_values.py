"""Values that are no tensors: None, a bool, a text, whatever gives them, is what Python sees of it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft


class Pair(NamedTuple):
    first: Tensor
    second: Tensor | None


@dataclasses.dataclass
class Record:
    first: Tensor
    second: Tensor | None = None


class Untraced(nn.Module):
    """Gives something made of its input, in code that cannot be traced: at length 5 a part of it is missing."""

    def __init__(self, make: Callable[[Tensor, Any], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        if object.__getattribute__(x, "__class__") is not Tensor:  # so no proxy gets by
            raise TypeError("tensors only")
        return self.make(x, None if x.shape[1] == 5 else x)


class Net(nn.Module):
    def __init__(self, part: nn.Module, program: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.part, self.program = nn.Linear(4, 6), nn.Linear(6, 3), part, program

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.program(self.part, self.first(x)))


class Way(enum.Enum):
    A = "a"


@pytest.mark.parametrize("value", [None, "text", True, False, 3, Way.A])
@pytest.mark.parametrize("layer", [nn.Identity(), nn.Dropout(0.0)], ids=["identity", "dropout"])
def test_a_leaf_hands_on_what_is_no_tensor(layer: nn.Module, value: Any) -> None:
    if isinstance(layer, nn.Dropout) and value is not None:
        layer = nn.Identity()

    def program(part: nn.Module, h: Tensor) -> Tensor:
        same = part(value) if isinstance(part, nn.Identity) else None
        return h.relu() if same is value or same == 3 else h.relu() + 5.0

    model, x = ft.randomize(Net(layer, program).eval()), torch.randn(2, 5, 4)
    plan = ft.plan(model, x)
    assert plan.num_free == 6
    assert torch.equal(plan.rewrite(plan.sample(exact=True, seed=0))(x), model(x))


MADE: dict[str, tuple[Callable[[Tensor, Any], Any], Callable[[Any], Any]]] = {
    "itself": (lambda x, part: part, lambda out: out),
    "tuple": (lambda x, part: (x, part), lambda out: out[1]),
    "taken apart": (lambda x, part: (x, part), lambda out: (lambda a, b: b)(*out)),
    "nested": (lambda x, part: (x, [part]), lambda out: out[1][0]),
    "named tuple": (Pair, lambda out: out.second),
    "dictionary": (lambda x, part: {"x": x, "part": part}, lambda out: out["part"]),
    "get": (lambda x, part: {"x": x, "part": part}, lambda out: out.get("part")),
    "data class": (Record, lambda out: out.second),
    "a bool": (lambda x, part: (x, part is None), lambda out: None if out[1] else 1),
    "a text": (lambda x, part: (x, "none" if part is None else "x"), lambda out: None if out[1] == "none" else 1),
    "missing key": (lambda x, part: {"x": x} if part is None else {"x": x, "y": x}, lambda out: dict(**out).get("y")),
    "length": (lambda x, part: [x] if part is None else [x, x], lambda out: None if len(out) == 1 else 1),
}


@pytest.mark.parametrize("kind", MADE)
def test_what_untraced_code_gives_is_seen_and_insisted_on(kind: str) -> None:
    make, read = MADE[kind]

    def program(part: nn.Module, h: Tensor) -> Tensor:
        return h.relu() + (0.0 if read(part(torch.ones_like(h[..., :1]))) is None else 5.0)

    model = ft.randomize(Net(Untraced(make), program).eval())
    x, other = torch.randn(2, 5, 4), torch.randn(2, 7, 4)
    with pytest.warns(ft.OpaqueModuleWarning, match="'part' is kept whole"):
        plan = ft.plan(model, x)
    assert plan.num_free == 6
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    assert torch.equal(network(x), model(x))
    assert torch.equal(network(x[:1]), model(x[:1]))
    with pytest.raises(ft.GuardError, match="captured with"):
        network(other)


class GivesNone(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> None:
        return None


def test_a_custom_function_that_gives_none() -> None:
    def program(part: nn.Module, h: Tensor) -> Tensor:
        return h.relu() if GivesNone.apply(h) is None else h

    model, x = ft.randomize(Net(nn.Identity(), program).eval()), torch.randn(2, 5, 4)
    plan = ft.plan(model, x)
    assert torch.equal(plan.rewrite(plan.sample(exact=True, seed=0))(x), model(x))


class DropsEdges(nn.Module):
    """Drops loops, then asks how many edges are left."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        edges = edges[:, edges[0] != edges[1]]
        h = self.first(x).relu()
        if edges.shape[1] == 0:
            return self.last(h)
        return self.last(torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))


def test_a_branch_by_how_many_are_left_is_taken_as_the_example_has_it() -> None:
    model, x = ft.randomize(DropsEdges().eval()), torch.randn(4, 4)
    some, more = torch.tensor([[0, 1, 2], [1, 1, 3]]), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    none = torch.tensor([[0, 1], [0, 1]])
    for planned, taken, refused in ((some, more, none), (none, none[:, :1], some)):
        plan = ft.plan(model, x, planned)
        assert plan.num_free == 6
        network = plan.rewrite(plan.sample(exact=True, seed=0))
        for edges in (planned, taken):
            assert torch.equal(network(x, edges), model(x, edges))
        with pytest.raises(ft.GuardError):
            network(x, refused)
