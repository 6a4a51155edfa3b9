"""Arguments that a model takes and its network was not captured with: None for a tensor, others, fewer, more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

X, Y = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)).unbind()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, y: Any) -> Any:
        h = torch.relu(self.a(x))
        return self.b(h if y is None else h + self.a(y))


class Passed(Net):
    """Another part asks."""

    def forward(self, x: Tensor, mask: Any) -> Any:
        return self.b(self.added(torch.relu(self.a(x)), mask))

    def added(self, h: Tensor, other: Any) -> Tensor:
        return h + self.a(other) if other is not None else h


class Kind(Net):
    def forward(self, x: Tensor, y: Any) -> Any:
        return self.b(torch.relu(self.a(x)) * (2 if isinstance(y, Tensor) else 3))


class KeywordOnly(Net):
    def forward(self, x: Tensor, *, y: Any) -> Any:
        return super().forward(x, y)


class Same(Net):
    """Nobody asks: what takes None does with it what it did."""

    def forward(self, x: Tensor, y: Any) -> Any:
        return self.b(torch.nn.functional.linear(torch.relu(self.a(x)), self.a.weight.T, y))


@torch.no_grad()
@pytest.mark.parametrize("kind", [Net, Passed, Kind, KeywordOnly])
def test_none_where_a_tensor_was(kind: type[Net]) -> None:
    model = ft.randomize(kind().eval())
    given = {"y": Y} if kind is KeywordOnly else {}
    args = (X,) if given else (X, Y)
    plan = ft.plan(model, *args, **given)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert torch.equal(network(*args, **given), model(*args, **given))
    with pytest.raises(ft.GuardError, match="a tensor for"):
        network(X, y=None) if given else network(X, None)
    assert kind in (Passed, Kind) or any("'y' is given" in c.value for c in plan.conditions)


class Many(Net):
    def forward(self, x: Tensor, *more: Tensor, scale: float = 1.0, **named: Tensor) -> Any:  # type: ignore[override]
        h = torch.relu(self.a(x))
        for other in (*more, *named.values()):
            h = h + self.a(other)
        return self.b(h) * scale


@torch.no_grad()
def test_other_arguments_than_it_was_captured_with() -> None:
    model = Many().eval()
    plan = ft.plan(model, X, Y, scale=2.0, other=Y)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert torch.equal(network(X, Y, scale=2.0, other=Y), model(X, Y, scale=2.0, other=Y))
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((X,), {"scale": 2.0, "other": Y}),
        ((X, Y, Y), {"scale": 2.0, "other": Y}),
        ((X, Y), {"scale": 2.0}),
        ((X, Y), {"other": Y}),
        ((X, Y), {"scale": 2.0, "another": Y}),
        ((X, Y), {"scale": 2.0, "other": Y, "one": X}),
    ]
    for args, kwargs in calls:
        model(*args, **kwargs)
        with pytest.raises(ft.GuardError, match="captured with the arguments"):
            network(*args, **kwargs)
