"""`int`, `float` and rounding of a size stay functions of it: other sizes run, and give the same."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft


def half(n: int) -> int:
    return int(n / 2)


def scaled(n: int) -> int:
    return int(n * 0.5)


def square(n: int) -> int:
    return int(math.sqrt(n))


def as_float(n: int) -> float:
    return 1 / float(n)


def rounded_up(n: int) -> int:
    return int(math.ceil(n / 2))  # noqa: RUF046 as people write it


def exact_root(n: int) -> int:
    return math.isqrt(n)


def nearest(n: int) -> int:
    return round(n / 3)


class Cut(nn.Module):
    def __init__(self, of: Callable[[int], float]) -> None:
        super().__init__()
        self.a, self.b, self.of = nn.Linear(6, 8), nn.Linear(8, 5), of

    def forward(self, x: Tensor) -> Tensor:
        h, k = torch.relu(self.a(x)), self.of(x.shape[1])
        return self.b(h * k if isinstance(k, float) else h[:, :k])


class Grid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.b = nn.Linear(6, 8), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        side = int(h.shape[1] ** 0.5)
        h = h.view(h.shape[0], side, side, h.shape[2]).permute(0, 3, 1, 2)
        return self.b(self.c(h).relu().flatten(2).transpose(1, 2))


class Counts(nn.Module):
    """It asks for the type by itself, too: it is left as it is, and a guard insists on the size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        kinds = [int, float]
        return self.b(torch.relu(self.a(x))[:, : int(x.shape[1] / 2)] * len(kinds))


@torch.no_grad()
@pytest.mark.parametrize("of", [half, scaled, square, as_float, rounded_up, exact_root, nearest])
def test_other_sizes_run(of: Callable[[int], float]) -> None:
    model, code = Cut(of).eval(), of.__code__
    plan = ft.plan(model, torch.randn(2, 4, 6))
    assert plan.num_free == 8
    assert of.__code__ is code
    assert not any(name.startswith("_fxteleport") for name in globals())
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for n in (4, 5, 9, 16):
        x = torch.randn(2, n, 6)
        assert torch.equal(network(x), model(x))


@torch.no_grad()
def test_a_grid_of_tokens_is_free() -> None:
    model = Grid().eval()
    plan = ft.plan(model, torch.randn(2, 16, 6))
    assert (plan.num_free, plan.specialized) == (16, [])
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for n in (16, 9, 4):
        x = torch.randn(3, n, 6)
        assert torch.equal(network(x), model(x))


@torch.no_grad()
def test_what_cannot_be_recorded_is_guarded() -> None:
    model = Counts().eval()
    plan = ft.plan(model, torch.randn(2, 4, 6))
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    x = torch.randn(2, 4, 6)
    assert torch.equal(network(x), model(x))
    with pytest.raises(ft.GuardError, match="captured with"):
        network(torch.randn(2, 6, 6))


class Lasts(nn.Module):
    """What a classifier of texts does: each row's last token, and how many rows there are."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor, last: Tensor) -> Tensor:
        y = self.b(torch.relu(self.a(x)))
        return y[torch.arange(len(y)), last] / len(x)


@torch.no_grad()
def test_the_length_of_a_tensor_is_a_size() -> None:
    model = Lasts().eval()
    plan = ft.plan(model, torch.randn(2, 4, 6), torch.tensor([3, 1]))
    assert plan.num_free == 8
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for n in (2, 3, 5):
        x, last = torch.randn(n, 4, 6), torch.arange(n) % 4
        assert torch.equal(network(x, last), model(x, last))


class Telling(nn.Module):
    """It tells numbers of its outputs, and divides by one of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, float, int]:
        y = self.b(torch.relu(self.a(x)) / float(x.abs().max()))
        return y, float((y > 0).float().mean()), int(y.sum(0).argmax())


@torch.no_grad()
def test_numbers_of_activations_are_items() -> None:
    model = Telling().eval()
    plan = ft.plan(model, torch.randn(2, 6))
    assert plan.num_free == 8 and not plan.opaque
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for n in (2, 3):
        x = torch.randn(n, 6)
        (y, share, best), (z, same, other) = model(x), network(x)
        assert torch.equal(y, z) and (share, best) == (same, other) and type(other) is int
