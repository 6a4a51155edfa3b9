"""Sizing: what comes from the inputs' sizes is unknown to the rules, so that one plan is right at every size."""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.domain.size import Extent, Size, Sizes, cuts, plus, product, quotient, times

SIZES = Sizes()
B, H, W = (SIZES.fresh(n) for n in (2, 3, 4))
atoms = st.sampled_from([B, H, W, 1, 2, 6])
polynomials = st.lists(st.lists(atoms, max_size=3), max_size=3).map(lambda terms: _sum(product(t) for t in terms))


def _sum(sizes: object) -> Extent:
    total: Extent = 0
    for size in sizes:  # type: ignore[attr-defined]
        total = plus(total, size)
    return total


@given(polynomials, polynomials, polynomials)
def test_sizes_are_a_ring(a: Extent, b: Extent, c: Extent) -> None:
    assert times(a, plus(b, c)) == plus(times(a, b), times(a, c))
    assert plus(plus(a, b), b, -1) == a
    assert SIZES.value(times(a, b)) == SIZES.value(a) * SIZES.value(b)
    if b != 0:
        assert quotient(times(a, b), b) == a


def test_what_a_graph_insists_on_is_known() -> None:
    sizes = Sizes()
    b, h, w = (sizes.fresh(n) for n in (2, 4, 4))
    sizes.insist(product([b, 8, h, w]), times(b, 128))
    assert sizes.settled(product([h, w, 3])) == 48
    sizes.insist(plus(h, 1), 5)
    assert (sizes.settled(h), sizes.settled(w)) == (4, 4)


def test_what_cannot_be_said_yet_waits() -> None:
    sizes = Sizes()
    h, w = (sizes.fresh(n) for n in (7, 7))
    y = sizes.share(product([128, h, w]), [49], 128)
    sizes.insist(y, 128)
    assert sizes.settled(times(h, w)) == 49


@given(st.integers(1, 40), st.integers(2, 9))
def test_what_is_padded_to_a_multiple_is_one(n: int, k: int) -> None:
    sizes = Sizes()
    h = sizes.fresh(n)
    rest = sizes.apply(operator.mod, (h, k), n % k)
    pad = sizes.apply(operator.mod, (plus(k, rest, -1), k), (k - n % k) % k)
    whole = plus(h, pad)
    count = sizes.apply(operator.floordiv, (whole, k), (n + (k - n % k) % k) // k)
    assert times(count, k) == whole
    assert [sizes.value(x) for x in (rest, pad, count)] == [n % k, (k - n % k) % k, -(-n // k)]
    assert sizes.is_rest(pad)


def test_an_axis_that_cannot_be_1_is_what_it_meets() -> None:
    """Windows that are put back: how many images they are is the whole part of a quotient."""
    sizes = Sizes()
    windows, each = sizes.fresh(8), sizes.fresh(4)
    images = sizes.apply(operator.floordiv, (windows, each), 2)
    channels = sizes.share(times(windows, 6), [images, each], 6)
    other = sizes.share(times(windows, 6), [each], 12)
    sizes.meet(channels, 6)
    sizes.meet(other, 12)
    assert sizes.settled(channels) == 6 and type(sizes.settled(other)) is Size
    assert sizes.settled(times(images, each)) == windows


def test_shapes_are_cut_where_products_agree() -> None:
    assert cuts((B, H, 12), (times(B, H), 3, 4)) == [([0, 1], [0]), ([2], [1, 2])]
    assert cuts((B, 12, H), (B, 3, 4, H)) == [([0], [0]), ([1], [1, 2]), ([2], [3])]


class Positions(nn.Module):
    """What a size does to the hidden values [batch, length, 8] or to a table of positions."""

    def __init__(self, way: Callable[[Positions, Tensor, Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        self.way, self.first, self.last = way, nn.Linear(4, 8), nn.Linear(width, 3)
        self.table, self.pad = nn.Parameter(torch.randn(12, 8)), nn.ZeroPad2d(1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.way(self, torch.relu(self.first(x)), x))
        return out


def written(net: Positions, h: Tensor, x: Tensor) -> Tensor:
    out = torch.zeros(x.shape[0], 12, 8)
    out[:, : x.shape[1]] = h
    return out


def zeroed(net: Positions, h: Tensor, x: Tensor) -> Tensor:
    h = h.clone()
    h[..., x.shape[1] :] = 0
    return h


def half_written(net: Positions, h: Tensor, x: Tensor) -> Tensor:
    """Nothing is written at length 1."""
    n = x.shape[1] // 2
    return torch.slice_scatter(h.new_zeros(h.shape) + net.table[:1], h[:, :n], 1, 0, n)


def first_zeroed(net: Positions, h: Tensor, x: Tensor) -> Tensor:
    """All is written at length 1."""
    h = h.clone()
    h[:, 0] = 0
    return h


def heads(net: Positions, h: Tensor, x: Tensor) -> Tensor:
    """[batch, length, 8] -> [batch * 2, 4]."""
    return h.reshape(x.shape[0], x.shape[1], 2, 4).transpose(1, 2).reshape(-1, x.shape[1], 4).mean(1)


def windows(net: Positions, h: Tensor, x: Tensor) -> Tensor:
    """Windows of 4 positions of a padded length, put back as code for any number of images does."""
    b, n, c = h.shape
    pad = (4 - n % 4) % 4
    whole = n + pad
    cut = F.pad(h, (0, 0, 0, pad)).view(b, whole // 4, 4, c).reshape(-1, 4, c)
    images = cut.shape[0] // (whole // 4)
    return cut.view(images, whole // 4, 4, -1).reshape(images, whole, -1)[:, :n] + h


def fixed(net: Positions, h: Tensor, x: Tensor) -> Tensor:
    """A length that the network knows: what is left of the reshape are the channels, as the next layer says."""
    b, n, _ = h.shape
    return h.transpose(1, 2).reshape(b, -1, 5).transpose(1, 2) + torch.zeros(b, n, 1)


def empty(net: Positions, h: Tensor, x: Tensor) -> Tensor:
    """The positions before the first, which are none, before all."""
    return torch.cat([h[:, :0], h], 1)


WAYS: dict[str, Callable[[Positions, Tensor, Tensor], Tensor]] = {
    "rows of a table": lambda net, h, x: h + net.table[: x.shape[1]],
    "rows by a range": lambda net, h, x: h + net.table[torch.arange(x.shape[1])],
    "rows cut off": lambda net, h, x: h * F.pad(net.table, (0, 0, 0, x.shape[1] - 12)),
    "a power": lambda net, h, x: h ** x.shape[1],
    "rows beside a pad": lambda net, h, x: h * net.table[: net.pad(h).shape[1] - 2],
    "half written": half_written,
    "the first zeroed": first_zeroed,
    "squeezed and put back": lambda net, h, x: h.squeeze().reshape(h.shape) + net.table[: h.shape[0]].mean(0),
    "as many copies": lambda net, h, x: torch.cat([h, torch.stack([net.table[:1]] * h.shape[0])], 1),
    "an addend": lambda net, h, x: h + (x.shape[1] - 5),
    "a product over the length": lambda net, h, x: h.prod(1),
    "written into zeros": written,
    "zeros past the length": zeroed,
    "rolled": lambda net, h, x: h.roll(x.shape[1], -1),
    "a triangle": lambda net, h, x: torch.ones(x.shape[1], x.shape[1]).tril() @ h,
    "joined and cut apart": lambda net, h, x: torch.cat([net.table[None].expand(x.shape[0], -1, -1), h], 1)[:, 12:],
    "a diagonal": lambda net, h, x: torch.diag_embed(h, min(x.shape[1], 2)).sum(-1)[..., :8],
    "windows": windows,
    "nothing before it": empty,
    "the last one": lambda net, h, x: h * h[:, -1:],
    "heads in the batch": lambda net, h, x: heads(net, h, x).reshape(x.shape[0], 8),
}


@pytest.mark.parametrize("example", [(2, 5, 4), (1, 1, 4)], ids=["some", "one"])
@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", WAYS)
def test_one_plan_is_right_at_every_size(name: str, mode: str, example: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = ft.randomize(Positions(WAYS[name]).eval())
    plan = ft.plan(model, torch.randn(example), mode=mode)
    cob = plan.sample(0.9, "inter", exact=True, seed=1)
    networks = [plan.rewrite(cob)]
    if mode == "weights" and not plan.conditions:
        networks.append(plan.apply_(cob, copy.deepcopy(model)))
    taken = 0
    with torch.no_grad():
        for batch, length in [(2, 5), (1, 5), (3, 2), (2, 9), (1, 1), (5, 12)]:
            x = torch.randn(batch, length, 4)
            for network in networks:
                try:
                    found = network(x)
                except ft.GuardError:
                    continue
                assert torch.equal(found, model(x)), (batch, length)
                taken += 1
    assert taken >= (1 if example[0] == 1 else 2)


@dataclasses.dataclass
class Batch:
    """Inputs in an object."""

    x: Tensor


class Opening(nn.Module):
    """A network whose input is held by something."""

    def __init__(self, network: nn.Module, opened: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.network, self.opened = network, opened

    def forward(self, held: Any) -> Any:
        return self.network(self.opened(held))


HOLDERS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "an object": (lambda x: SimpleNamespace(x=x), lambda held: held.x),
    "a data class": (Batch, lambda held: held.x),
    "an object in a list in an object": (
        lambda x: SimpleNamespace(layers=[SimpleNamespace(x=x, n=1)]),
        lambda held: held.layers[0].x,
    ),
    "a dictionary": (lambda x: {"x": x}, lambda held: held["x"]),
}


@pytest.mark.parametrize("how", HOLDERS)
@pytest.mark.parametrize("name", WAYS)
def test_what_holds_an_input_says_nothing_of_its_sizes(name: str, how: str) -> None:
    torch.manual_seed(0)
    hold, opened = HOLDERS[how]
    bare = ft.randomize(Positions(WAYS[name]).eval())
    model, x = Opening(bare, opened), torch.randn(2, 5, 4)
    plan = ft.plan(model, hold(x), mode="weights")
    assert plan.num_free == ft.plan(bare, x, mode="weights").num_free
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
    with torch.no_grad():
        for batch, length in [(2, 5), (3, 2), (2, 9)]:
            x = torch.randn(batch, length, 4)
            try:
                found = network(hold(x))
            except ft.GuardError:
                continue
            assert torch.equal(found, bare(x)), (batch, length)


class Diagonal(nn.Module):
    """The diagonal is as long as the shorter of two axes: what a layer takes of it says nothing of the longer one."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Parameter(torch.randn(6, 3)), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.last(torch.diagonal(x, 0, -2, -1)), x + self.table[: x.shape[-2]]


@torch.no_grad()
def test_the_shorter_of_two_axes_is_neither() -> None:
    model = ft.randomize(Diagonal())
    plan = ft.plan(model, torch.randn(2, 3, 3))
    x = torch.randn(2, 5, 3)
    assert all(map(torch.equal, plan.rewrite(plan.sample(exact=True, seed=0))(x), model(x)))


class Turned(nn.Module):
    """Written in place through what is a view of a square matrix, and a copy of any other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.first(x)
        turned = F.silu(h.t().reshape(h.shape), inplace=True)
        return self.last(turned), self.last(h)


@torch.no_grad()
def test_a_view_at_some_sizes_only() -> None:
    model = ft.randomize(Turned())
    plan = ft.plan(model, torch.randn(2, 3))
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    for size in (2, 3):
        x = torch.randn(size, 3)
        assert all(map(torch.equal, network(x), model(x)))


def shifted(net: Positions, h: Tensor, x: Tensor) -> Tensor:
    h, later = h.clone(), torch.relu(h)
    h[:, 1:] = later[:, :-1]
    return h


def apart(net: Positions, h: Tensor, x: Tensor) -> Tensor:
    return torch.cat([h[:, :1] * 2, torch.relu(h)[:, 1:]], 1)


EMPTY: dict[str, tuple[Callable[[Positions, Tensor, Tensor], Tensor], int, int]] = {  # with a batch and a length
    "rows but one": (lambda net, h, x: h + F.pad(net.table[: x.shape[1] - 1], (0, 0, 1, 0)), 2, 1),
    "the rest of the rows": (lambda net, h, x: torch.cat([net.table[x.shape[1] :], h[0]]), 2, 12),
    "written past the first": (shifted, 2, 1),
    "cut apart": (apart, 2, 1),
    "turned": (lambda net, h, x: h.flip(-1), 0, 5),
    "picked": (lambda net, h, x: h[..., [1, 0, 3, 2, 5, 4, 7, 6]], 0, 5),
    "viewed": (lambda net, h, x: h.view(x.shape[0], x.shape[1], 2, 4).transpose(1, 2).transpose(1, 2).flatten(2), 0, 5),
}


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", EMPTY)
def test_what_is_empty_in_the_example_need_not_be(name: str, mode: str) -> None:
    torch.manual_seed(0)
    way, batch, length = EMPTY[name]
    model = ft.randomize(Positions(way).eval())
    plan = ft.plan(model, torch.randn(batch, length, 4), mode=mode)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
    taken = 0
    with torch.no_grad():
        for size in (2, 5), (1, 12), (3, 7):
            x = torch.randn(*size, 4)
            try:
                found = network(x)
            except ft.GuardError:
                continue
            assert torch.equal(found, model(x)), size
            taken += 1
    assert taken


def test_what_can_be_derived_stays_free() -> None:
    def free(way: Callable[[Positions, Tensor, Tensor], Tensor], width: int = 8) -> int:
        return ft.plan(Positions(way, width), torch.randn(2, 5, 4), mode="weights").num_free

    assert free(WAYS["rows of a table"]) == 8  # tied to the stream: the rows have no values of their own
    assert free(heads, width=4) == 4  # heads share theirs, their channels do not
    assert free(windows) == free(fixed) == free(empty) == 8
    assert free(lambda net, h, x: h + net.table[: x.shape[1]][-1:] / net.table[-1:]) == 8
