"""Decisions of the example's data: both ways are there where a mask decides, else a guard checks the run's data."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

MASKS = {
    "ones": [[1, 1, 1, 1], [1, 1, 1, 1]],
    "right": [[1, 1, 1, 1], [1, 1, 0, 0]],
    "left": [[0, 1, 1, 1], [0, 0, 0, 1]],
    "none": [[0, 0, 0, 0], [0, 0, 0, 0]],
}


def bias_of(mask: Tensor) -> Tensor | None:
    """A helper that skips a mask of ones."""
    return None if mask.all() else torch.zeros(mask.shape).masked_fill(~mask, -1e4)


def twice(mask: Tensor) -> Tensor | None:
    """One that asks for the same again, as a model with two kinds of layers does."""
    first, second = bias_of(mask), bias_of(mask)
    return None if first is None or second is None else first + second


class Pools(nn.Module):
    def __init__(self, bias: Callable[[Tensor], Tensor | None], p: float = 0.0) -> None:
        super().__init__()
        self.first, self.score, self.last = nn.Linear(5, 6), nn.Linear(5, 1), nn.Linear(6, 3)
        self.bias, self.drop = bias, nn.Dropout(p)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.drop(x)
        weights, bias = self.score(x).squeeze(-1), self.bias(mask)
        if bias is not None:
            weights = weights + bias
        return self.last((weights.softmax(-1)[..., None] * torch.relu(self.first(x))).sum(1))


def mask(name: str, dtype: torch.dtype = torch.bool) -> Tensor:
    return torch.tensor(MASKS[name]).to(dtype)


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize(("bias", "planned"), itertools.product((bias_of, twice), ("ones", "right", "left")))
def test_a_mask_that_decides(bias: Callable[[Tensor], Tensor | None], planned: str, mode: str) -> None:
    """As free as where nothing decides, exact on every padding, and under no condition of the data."""
    torch.manual_seed(0)
    model, x = ft.randomize(Pools(bias)).eval(), torch.randn(2, 4, 5)
    plan = ft.plan(model, x, mask(planned), mode=mode, checks=True)
    assert plan.num_free == 6
    assert not plan.opaque
    assert not any(c.kind == "data" for c in plan.conditions)
    network = plan.rewrite(plan.sample(exact=True, seed=1))
    for made in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        for name in MASKS:
            assert torch.equal(made(x, mask(name)), model(x, mask(name)))
    for name in MASKS:
        report = ft.verify(model, network, x, mask(name))
        assert report.passed and report.bitwise_equal
    if mode == "weights":
        moved = copy.deepcopy(model)
        plan.apply_(plan.sample(exact=True, seed=1), moved, strict=False)
        assert all(torch.equal(moved(x, mask(name)), model(x, mask(name))) for name in MASKS)


def test_random_numbers_before_the_decision_are_drawn_once() -> None:
    model, x = Pools(bias_of, p=0.5).train(), torch.randn(2, 4, 5)
    network = ft.teleport(model, x, mask("right"), exact=True, seed=0).train()
    for name in MASKS:
        torch.manual_seed(3)
        expected = model(x, mask(name)), torch.rand(2)
        torch.manual_seed(3)
        found = network(x, mask(name)), torch.rand(2)
        assert all(map(torch.equal, expected, found))


def test_without_data_guards_what_decides_is_kept_whole() -> None:
    model, x = Pools(bias_of).eval(), torch.randn(2, 4, 5)
    with pytest.warns(ft.OpaqueModuleWarning):
        plan = ft.plan(model, x, mask("right"), data_guards=False)
    assert not any(c.kind == "data" for c in plan.conditions)
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    assert all(torch.equal(network(x, mask(name)), model(x, mask(name))) for name in MASKS)


class Counts(nn.Module):
    """Numbers that the data give: a length, an index of a loop, a set of values."""

    def __init__(self, count: Callable[[Tensor], int]) -> None:
        super().__init__()
        self.first, self.last, self.count = nn.Linear(5, 6), nn.Linear(6, 3), count

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last(sum(h[:, i] for i in range(self.count(lengths))))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "count", [lambda n: int(n.max()), lambda n: len(n.unique()), lambda n: n.tolist()[0], lambda n: int((n > 1).sum())]
)
def test_numbers_of_the_data_are_guarded(count: Callable[[Tensor], int]) -> None:
    torch.manual_seed(0)
    model, x = ft.randomize(Counts(count)).eval(), torch.randn(3, 4, 5)
    lengths, others = torch.tensor([3, 1, 2]), torch.tensor([1, 1, 1])
    plan = ft.plan(model, x, lengths)
    assert plan.num_free == 6
    assert any(c.kind == "data" for c in plan.conditions)
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    assert torch.equal(network(x, lengths), model(x, lengths))
    with pytest.raises(ft.GuardError):
        network(x, others)


class Ticks(nn.Module):
    """What a buffer decides is known; what a counter decides is not, since each run changes it."""

    def __init__(self, counts: bool) -> None:
        super().__init__()
        self.first, self.last, self.counts = nn.Linear(5, 6), nn.Linear(6, 3), counts
        self.register_buffer("times", torch.linspace(0, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        if self.counts:
            self.times += 1
        y = self.first(x)
        return self.last(y * 2 if self.times[0] < self.times[1] else y)


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
@pytest.mark.parametrize("counts", [False, True])
def test_buffers_decide(counts: bool) -> None:
    model, x = Ticks(counts).eval(), torch.randn(2, 5)
    plan = ft.plan(model, x)
    assert (plan.num_free > 0) is not counts
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    if not counts:
        assert torch.equal(network(x), model(x))
        network.times.neg_()
        with pytest.raises(ft.GuardError):
            network(x)


class Experts(nn.Module):
    """Rows are chosen by what activations give: each expert gets those that the router sends it."""

    def __init__(self, route: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.first, self.router, self.last = nn.Linear(8, 6), nn.Linear(8, 2), nn.Linear(6, 3)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6)) for _ in range(2)])
        self.route = route

    def forward(self, x: Tensor) -> Tensor:
        hidden, gates = torch.relu(self.first(x)), self.router(x).softmax(-1)
        out = hidden
        for i, expert in enumerate(self.experts):
            rows = self.route(gates, i)
            out = out.index_add(0, rows, expert(hidden[rows]) * gates[rows, i, None])
        return self.last(out)


ROUTES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "where": lambda gates, i: torch.where(gates[:, i] > 0.3)[0],
    "nonzero": lambda gates, i: (gates.argmax(-1) == i).nonzero().flatten(),
    "top": lambda gates, i: torch.where(gates.topk(1, -1).indices == i)[0],
}


@pytest.mark.parametrize("route", ROUTES)
def test_experts_get_rows(route: str, assert_exact: Callable[..., ft.Plan]) -> None:
    plan = assert_exact(Experts(ROUTES[route]), torch.randn(9, 8))
    assert plan.num_free == 16
    network, model = plan.rewrite(plan.sample(exact=True, seed=2)), plan.captured.model
    for x in _batches():
        assert torch.equal(network(x), model(x))


def _batches() -> Iterator[Tensor]:
    for size, scale in ((1, 1.0), (5, 0.0), (12, 10.0)):
        yield torch.randn(size, 8) * scale


def test_a_saved_network_is_planned_again_on_the_masks_that_decided(tmp_path: Path) -> None:
    model, x = ft.randomize(Pools(bias_of)).eval(), torch.randn(2, 4, 5)
    network = ft.teleport(model, x, mask("left"), exact=True, seed=0)
    ft.save(tmp_path / "network", network, "pools")
    loaded = ft.load(tmp_path / "network", Pools(bias_of).eval())
    for name in MASKS:
        assert torch.equal(loaded(x, mask(name)), model(x, mask(name)))


def test_compiled_and_exported() -> None:
    """Compiled, a network chooses as before; a program is the graph of the masks that it was exported on."""
    model, x = ft.randomize(Pools(bias_of)).eval(), torch.randn(2, 4, 5)
    network = ft.teleport(model, x, mask("right"), exact=True, seed=0)
    with torch.no_grad():
        compiled = torch.compile(network, backend="eager")
        assert all(torch.equal(compiled(x, mask(name)), model(x, mask(name))) for name in MASKS)
        program = torch.export.export(network, (x, mask("right"))).module()
        assert torch.equal(program(x, mask("left")), model(x, mask("left")))
        with pytest.raises(RuntimeError, match="the data decide"):
            program(x, mask("ones"))
