"""Shared state: attributes through which code that is kept whole and traced code tell each other something."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

pytestmark = pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
G = torch.Generator().manual_seed(0)
RUNS = [torch.randn(n, 4, generator=G) for n in (2, 2, 3, 2)]


class Part(nn.Module):
    """What it does depends on an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.flag, self.count, self.items = False, 0, list[Any]()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return torch.tanh(y) if self.flag else torch.relu(y)


class Listed(Part):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.relu(self.layer(x))
        return y + self.items[-1].mean(0) if self.items else y


class Counts(Part):
    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return torch.relu(self.layer(x)) * self.count


class Tells(Part):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        self.flag = False
        if y.sum() > 0:  # no graph can tell
            self.flag = True
        return y


class Fills(Part):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        if y.sum() > 0:
            y = y * 2
        self.items.append(y)
        return y


class Other(nn.Module):
    """Changes a part that it does not own."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.layer, self.part = nn.Linear(8, 8), [part]

    def forward(self, x: Tensor) -> Tensor:
        self.part[0].flag = not self.part[0].flag
        out: Tensor = self.layer(x)
        return out


class Owner(nn.Module):
    kind: type[Part] = Part

    def __init__(self) -> None:
        super().__init__()
        self.a, self.part, self.b = nn.Linear(4, 8), self.kind(), nn.Linear(8, 2)
        self.other, self.runs = Other(self.part), 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.tell(self.part(torch.relu(self.a(x))))
        out: Tensor = self.b(y)
        return out

    def tell(self, y: Tensor) -> Tensor:
        return y


class Sets(Owner):
    def tell(self, y: Tensor) -> Tensor:
        self.part.flag = True
        return y


class SetsBefore(Owner):
    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        self.part.flag = self.runs % 2 == 0
        return super().forward(x)


class SetsInList(Owner):
    kind = Listed

    def tell(self, y: Tensor) -> Tensor:
        self.part.items.append(y.detach())
        return y


class SetsOfAnother(Owner):
    def tell(self, y: Tensor) -> Tensor:
        out: Tensor = self.other(y)
        return out


class Asks(Owner):
    kind = Counts

    def tell(self, y: Tensor) -> Tensor:
        return torch.tanh(y) if self.part.count % 2 else y


class AsksWhatDataDecide(Owner):
    kind = Tells

    def tell(self, y: Tensor) -> Tensor:
        return torch.tanh(y) if self.part.flag else y


class AsksForList(Owner):
    kind = Fills

    def tell(self, y: Tensor) -> Tensor:
        return torch.tanh(y) if self.part.items else y


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize(
    "kind",
    [Sets, SetsBefore, SetsInList, SetsOfAnother, Asks, AsksWhatDataDecide, AsksForList],
    ids=lambda k: k.__name__,
)
def test_what_holds_both_is_kept_whole(kind: type[Owner], mode: str) -> None:
    torch.manual_seed(0)
    model = ft.randomize(kind().eval())
    plan = ft.plan(model, RUNS[0], mode=mode)
    assert (model.part.flag, model.part.count, model.part.items) == (False, 0, [])  # planning runs copies
    network = plan.rewrite(plan.sample(exact=True, landscape="inter", seed=0))
    for x in RUNS:
        assert torch.equal(network(x), model(x))


@pytest.mark.parametrize("kind", [Counts, Tells, Fills])
def test_a_part_that_keeps_its_state_to_itself_is_kept_whole_alone(kind: type[Part]) -> None:
    class Reads(Owner):
        def tell(self, y: Tensor) -> Tensor:
            return y * self.part.layer.in_features  # which its code never sets

    Reads.kind = kind
    model = ft.randomize(Reads().eval())
    plan = ft.plan(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), model), RUNS[0])
    assert plan.num_free >= 6
    assert {opaque.path for opaque in plan.opaque} == {"3.part"}
