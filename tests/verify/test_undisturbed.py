"""Verifying changes nothing of the networks that it runs."""

from __future__ import annotations

import collections
import copy
import io
import itertools
import random
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.verify import undisturbed

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


class Counting(nn.Module):
    """A forward that leaves something behind in every way that a module can."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)
        self.register_buffer("runs", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("last", torch.zeros(1), persistent=False)
        self.seen: list[int] = []
        self.table: dict[str, int] = {"runs": 0}
        self.calls, self.held = 0, torch.zeros(6)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        with torch.no_grad():
            self.runs += 1
            self.mean.mul_(0.9).add_(hidden.mean(0), alpha=0.1)
            self.held += 1
            self.last = hidden.sum().reshape(1)
            self.a.weight.requires_grad_(False)
        self.calls += 1
        self.seen.append(self.calls)
        self.table["runs"] += 1
        self.new = hidden
        random.random(), np.random.rand(), torch.rand(1)
        return self.b(torch.relu(hidden))


def state(model: nn.Module) -> dict[str, Any]:
    found = {n: t.clone() for n, t in (*model.named_parameters(), *model.named_buffers())}
    found |= {f"{n} wants": p.requires_grad for n, p in model.named_parameters()}
    found |= {f"{n} grad": p.grad for n, p in model.named_parameters()}
    found |= {f"{n} mode": m.training for n, m in model.named_modules()}
    other = {k: copy.copy(v) for k, v in vars(model).items() if not k.startswith("_")}
    return found | {k: v.clone() if isinstance(v, Tensor) else v for k, v in other.items()}


def require_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal(value, after[key]) if isinstance(value, Tensor) else value == after[key]
        assert same, key


@pytest.mark.parametrize("exact", [True, False])
def test_verify_leaves_the_model_as_it_was(exact: bool) -> None:
    model = Counting().train()
    model(X).sum().backward()  # it has gradients, and a history
    plain = nn.Sequential(copy.deepcopy(model.a), nn.ReLU(), copy.deepcopy(model.b))
    buffer, draws = model.mean, (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    before = state(model)
    report = ft.verify(model, plain if exact else ft.randomize(copy.deepcopy(plain)), X)
    assert report.passed is exact
    require_same(before, state(model))
    assert model.mean is buffer
    assert torch.equal(torch.get_rng_state(), draws[0]) and random.getstate() == draws[1]
    assert np.array_equal(np.random.get_state()[1], draws[2])


def test_verify_leaves_both_as_they_were_where_nodes_are_compared() -> None:
    class Statistics(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)
            self.register_buffer("runs", torch.zeros((), dtype=torch.long))

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            return self.b(torch.relu(self.a(x))) * self.runs

    model = Statistics()
    plan = ft.plan(model, X)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    before = state(model), state(network)
    for _ in range(2):
        assert ft.verify(model, network, X).passed
        assert ft.verify(copy.deepcopy(model), network, X).passed
    require_same(before[0], state(model))
    assert torch.equal(before[1]["runs"], network.get_buffer("runs"))


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
def test_verify_leaves_what_is_kept_whole_as_it_was() -> None:
    """Held beside the network's modules, it counts its runs."""

    class Warmup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.step = nn.Linear(5, 6), nn.Linear(6, 3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.step += 1
            return self.b(torch.relu(self.a(x)) * min(1.0, self.step / 10))

    for model in (Warmup(), nn.Sequential(nn.Linear(5, 5), Warmup())):
        model(X)
        plan = ft.plan(model, X)
        assert plan.opaque
        network = plan.rewrite(plan.sample(exact=True, seed=0))
        for _ in range(2):
            assert ft.verify(model, network, X).bitwise_equal
        assert torch.equal(network(X), model(X))
        assert torch.equal(network(X), model(X))


def in_place(m: Any) -> None:
    m.b.weight.mul_(0.5)


def its_data(m: Any) -> None:
    m.b.weight.data.clamp_(0)


def new_data(m: Any) -> None:
    m.b.weight.data = m.a.weight.sum() * m.b.weight.data


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
@pytest.mark.parametrize("write", [in_place, its_data, new_data])
def test_weights_that_a_forward_writes_to(write: Callable[[Any], None]) -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                write(self)
            return self.b(torch.relu(self.a(x)))

    model = ft.randomize(Writing())
    plan = ft.plan(model, X)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    before, address = (state(model), state(network)), model.b.weight.data_ptr()
    assert ft.verify(model, network, X).passed
    assert ft.verify(model, copy.deepcopy(model), X).passed
    require_same(before[0], state(model))
    require_same(before[1], state(network))
    assert model.b.weight.data_ptr() == address


def test_an_output_that_is_a_buffer_keeps_its_value() -> None:
    class Handing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(5, 6)
            self.register_buffer("mean", torch.zeros(6))

        def forward(self, x: Tensor) -> Tensor:
            self.mean.copy_(self.a(x).mean(0))
            return self.mean

    torch.manual_seed(0)
    model, other = Handing(), Handing()
    assert not ft.verify(model, other, X).passed
    assert ft.verify(model, copy.deepcopy(model), X).passed


def test_it_is_undone_after_an_error() -> None:
    model = Counting()
    before = state(model)
    with pytest.raises(RuntimeError), undisturbed(model):
        model(X)
        model.eval()
        raise RuntimeError
    require_same(before, state(model))


class Inside(nn.Module):
    """A forward that leaves something in what its attributes lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 3)
        self.deep = {"a": [types.SimpleNamespace(n=0)]}
        self.array, self.text = np.zeros(2), io.StringIO()
        self.source, self.torchs = random.Random(0), torch.Generator().manual_seed(0)
        self.queue: collections.deque[int] = collections.deque([1], maxlen=2)
        self.steps = itertools.count(1)

    def forward(self, x: Tensor) -> Tensor:
        self.deep["a"][0].n += 1
        self.array[0] += 1
        self.text.write("a")
        self.queue.append(len(self.queue))
        drawn = self.source.random() + torch.rand(1, generator=self.torchs)
        return self.a(x) * (self.array[0] + next(self.steps)) * drawn + self.deep["a"][0].n + self.text.tell()


@torch.no_grad()
def test_so_it_is_with_what_attributes_lead_to() -> None:
    model, one = Inside().eval(), Inside().eval()
    one.load_state_dict(model.state_dict())
    plan = ft.plan(model, X)
    network = plan.rewrite(plan.identity())
    for _ in range(2):
        assert ft.verify(model, network, X).passed
    for _ in range(2):
        expected = one(X)
        assert torch.equal(model(X), expected)
        assert torch.equal(network(X), expected)
