"""Sizes in tables: what a forward remembers by shape; nothing of a trace is left in the user's model or in its way."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft


class Net(nn.Module):
    """Linear -> a program, which may keep things in attributes -> Linear."""

    def __init__(self, program: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.program = nn.Linear(6, 8), nn.Linear(8, 4), program
        self.table: dict[Any, Any] = {}
        self.ordered: Any = collections.OrderedDict()
        self.counts: Any = collections.defaultdict(int)
        self.seen: set[Any] = set()
        self.list: list[Any] = []
        self.queue: Any = collections.deque(maxlen=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.program(self, self.first(x)))


KEPT: dict[Any, Any] = {}


@functools.lru_cache
def positions(length: int) -> Tensor:
    return torch.arange(float(length))


@functools.lru_cache
def halved(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], 2, shape[1] // 2)


def halved_if_hashable(shape: tuple[int, ...]) -> tuple[int, ...]:
    """As einops does: symbols are not looked up."""
    try:
        return halved(shape)
    except TypeError:
        return halved.__wrapped__(shape)


def in_a_table(net: Net, h: Tensor) -> Tensor:
    key = (h.shape[0], h.shape[1])
    if key not in net.table:
        net.table[key] = torch.arange(float(h.shape[1]))
    net.ordered[key] = net.counts[h.shape[1]] = 1
    return h * net.table[key]


def in_a_global_table(net: Net, h: Tensor) -> Tensor:
    key = (h.shape[0], str(h.device))
    if key not in KEPT:
        KEPT[key] = torch.arange(float(h.shape[1]))
    return h * KEPT[key]


def in_a_cache(net: Net, h: Tensor) -> Tensor:
    return h * positions(h.shape[1])


def in_a_cache_by_shape(net: Net, h: Tensor) -> Tensor:
    return h.reshape(halved(h.shape)).flatten(1)


def in_lists(net: Net, h: Tensor) -> Tensor:
    net.list.append(h)
    net.queue.append(h)
    net.seen.add(h.shape[1])
    return net.list[-1] * len(net.seen) + net.queue[0]


PROGRAMS = [in_a_table, in_a_global_table, in_a_cache, in_a_cache_by_shape, in_lists]


@pytest.fixture(autouse=True)
def empty_tables() -> None:
    KEPT.clear()
    positions.cache_clear()
    halved.cache_clear()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_planned_twice_and_run_after(program: Callable[[Any, Tensor], Tensor]) -> None:
    model, x = ft.randomize(Net(program).eval()), torch.randn(3, 6)
    networks = []
    for mode in ("full", "weights"):
        plan = ft.plan(model, x, mode=mode)
        assert plan.num_free == 8
        assert not plan.opaque
        networks.append(plan.rewrite(plan.sample(exact=True, seed=0)))
        kept = (model.table, model.ordered, model.counts, model.seen, model.list, model.queue)
        assert not any(kept), "planning left something in the model"
    for network in networks:
        out = model(x)
        assert type(out) is Tensor
        assert torch.equal(network(x), out)


def test_code_that_can_do_without_a_cache_keeps_other_batches() -> None:
    model = ft.randomize(Net(lambda net, h: h.reshape(halved_if_hashable(h.shape)).flatten(1).relu()).eval())
    for x in (torch.randn(3, 6), torch.randn(3, 6)):
        network = ft.teleport(model, x, exact=True, seed=0)
        assert torch.equal(network(x), model(x))
        assert torch.equal(network(x[:2]), model(x[:2]))


def test_einops() -> None:
    einops = pytest.importorskip("einops")

    def mixed(net: Net, h: Tensor) -> Tensor:
        parts = einops.rearrange(h, "b (h d) -> b h d", h=2)
        summed = einops.repeat(einops.reduce(parts, "b h d -> b d", "sum"), "b d -> b h d", h=2)
        return einops.rearrange(parts + summed, "b h d -> b (d h)")

    model, x = ft.randomize(Net(mixed).eval()), torch.randn(3, 6)
    for _ in range(2):
        plan = ft.plan(model, x)
        assert plan.num_free == 4
        network = plan.rewrite(plan.sample(exact=True, seed=0))
        assert torch.equal(network(x), model(x))
        assert torch.equal(network(x[:2]), model(x[:2]))


def test_a_tensor_left_over_from_planning_is_an_error() -> None:
    def first_of_all(net: Net, h: Tensor) -> Tensor:
        return h * KEPT.setdefault("first", h)

    model, x = Net(first_of_all).eval(), torch.randn(3, 6)
    ft.plan(model, x)
    with pytest.raises(RuntimeError, match="left over from planning"):
        model(x)
