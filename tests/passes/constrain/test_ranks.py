"""Ranks: inputs with another number of axes than the example's, or with axes of size 1, are right or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft

SHAPES = [(1, 1, 4), (2, 1, 4), (1, 5, 4), (3, 5, 4), (5, 4), (1, 4), (4,), (2, 3, 5, 4), (1, 1, 1, 4)]
Way = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """Linear -> something that names axes."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way, self.first, self.last = way, nn.Linear(4, 8), nn.Linear(8, 3)
        self.weight = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, torch.sigmoid(self.first(x)))


def asks(net: Net, h: Tensor) -> Tensor:
    return net.last(h.mean(1) if h.dim() == 3 else h * net.weight)


def asks_for_a_length(net: Net, h: Tensor) -> Tensor:
    return net.last(h.mean(1) if len(h.shape) == 3 else h * net.weight)


def asks_and_squeezes(net: Net, h: Tensor) -> Tensor:
    h = h.transpose(-1, -2).squeeze()
    return F.layer_norm(h, h.shape[-1:])


# What a rank, or a size of 1, decides.
FROM_THE_LEFT: dict[str, Way] = {
    "a mean over axis 1": lambda net, h: net.last(h + h.mean(1, keepdim=True)),
    "a mean over the batch": lambda net, h: net.last(h - h.mean(0)),
    "a sum over axis 1": lambda net, h: net.last(h.sum(1) * net.weight),
    "a softmax": lambda net, h: net.last(h.softmax(1) * h),
    "a norm": lambda net, h: net.last(F.normalize(h)),
    "joined": lambda net, h: net.last(torch.cat([h, h * 2], 1)),
    "picked": lambda net, h: net.last(h[:, :1] + h),
    "turned": lambda net, h: net.last(h + h.roll(1, 1)),
    "flattened": lambda net, h: h.flatten(1).mean(1),
    "unfolded": lambda net, h: h.view(h.size(0), -1).sum(1),
    "transposed": lambda net, h: h.transpose(0, 1).mean(0),
    "a new axis": lambda net, h: h.unsqueeze(1).mean(2),
    "grouped": lambda net, h: net.last(F.group_norm(h, 1)),
    "a rank": asks,
    "the length of a shape": asks_for_a_length,
    "squeezed, then a mean": lambda net, h: h.squeeze().mean(0) * net.weight,
    "squeezed, then a difference": lambda net, h: net.last(h.squeeze() - h.squeeze().mean(0)),
    "an axis squeezed": lambda net, h: net.last(F.normalize(h.squeeze(1))),
    "the batch squeezed": lambda net, h: net.last(h.squeeze(0) - h.squeeze(0).mean(1, keepdim=True)),
    "squeezed behind the features": lambda net, h: h.transpose(-1, -2).squeeze() * 2 + 1,
    "squeezed, asked": asks_and_squeezes,
}
# What neither decides: right on all inputs.
FROM_THE_RIGHT: dict[str, Way] = {
    "a layer": lambda net, h: net.last(h),
    "a norm of the last axes": lambda net, h: net.last(F.layer_norm(h, (8,))).softmax(-1),
    "a cut": lambda net, h: net.last(h[..., :4].repeat_interleave(2, -1)),
    "parts": lambda net, h: net.last(torch.cat(h.chunk(2, -1), -1)),
    "a new last axis": lambda net, h: net.last(h.unsqueeze(-2).mean(-2)),
    "squeezed": lambda net, h: net.last(h.squeeze()),
    "squeezed from the right": lambda net, h: net.last(h.unsqueeze(-2).squeeze(-2)),
    "all": lambda net, h: net.last(h) / h.numel() + h.mean(),
}


def taken(way: Way, shape: tuple[int, ...], mode: str) -> list[tuple[int, ...]]:
    """The shapes of inputs that an emitted network takes: there, and in weights without conditions, it is right."""
    torch.manual_seed(0)
    model = ft.randomize(Net(way).eval())
    plan = ft.plan(model, torch.randn(shape), mode=mode)
    cob = plan.sample(exact=True, landscape="inter", seed=1)
    networks = [plan.rewrite(cob)]
    if mode == "weights" and not plan.conditions:
        networks.append(plan.apply_(cob, copy.deepcopy(model)))  # type: ignore[arg-type]
    found = []
    for other in SHAPES:
        x = torch.randn(other)
        try:
            expected = model(x)
        except (RuntimeError, IndexError):
            continue
        for network in networks:
            try:
                out = network(x)
            except ft.GuardError:
                assert plan.conditions
                continue
            assert torch.equal(out, expected), (shape, other)
            found.append(other)
    return found


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", FROM_THE_LEFT)
@torch.no_grad()
def test_another_rank_is_right_or_refused(name: str, mode: str) -> None:
    for shape in SHAPES:
        try:
            Net(FROM_THE_LEFT[name])(torch.randn(shape))
        except (RuntimeError, IndexError):
            continue
        assert shape in taken(FROM_THE_LEFT[name], shape, mode)


@pytest.mark.parametrize("name", FROM_THE_RIGHT)
@torch.no_grad()
def test_what_counts_from_the_right_takes_any_rank(name: str) -> None:
    for shape in [(3, 5, 4), (1, 5, 4), (5, 4)]:
        assert not ft.plan(Net(FROM_THE_RIGHT[name]), torch.randn(shape)).conditions
        assert set(taken(FROM_THE_RIGHT[name], shape, "weights")) == set(SHAPES)


def test_a_condition_says_where() -> None:
    plan = ft.plan(Net(FROM_THE_LEFT["squeezed, then a mean"]), torch.randn(3, 5, 4))
    ranks, squeezed = plan.conditions
    assert str(ranks) == "the model: 'x' has 3 axes"
    assert str(squeezed) == "the model: squeeze takes the axes of size 1 out of (3, 5, 8)"
    assert "test_ranks.py" in squeezed.source


class Layers(nn.Module):
    """A network whose layers take one rank only."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).flatten(1)
        return self.head(h * torch.ones((1,) * h.ndim))  # type: ignore[no-any-return]


def test_a_rank_that_the_original_insists_on_is_no_condition() -> None:
    plan = ft.plan(Layers().eval(), torch.randn(2, 3, 8, 8))
    assert not plan.conditions
    with pytest.raises(ft.GuardError):
        plan.rewrite(plan.identity())(torch.randn(3, 8, 8))
