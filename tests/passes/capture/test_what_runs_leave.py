"""What a run leaves for the next one, and what Python finds by its hash: kept whole, guarded, or right."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.errors import GuardError


class Late(nn.Module):
    """Leaves a tensor in an attribute that is not there before the first run."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        super().__init__()
        self.a, self.b, self.read = nn.Linear(4, 4), nn.Linear(4, 2), read

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x) + self.read(self)
        self.last = h.detach()
        return self.b(h.relu())


def tried(module: Any) -> Any:
    try:
        return module.last
    except AttributeError:
        return 0


class Counting(nn.Module):
    """Counts its runs in a container."""

    def __init__(self, make: Callable[[], Any], count: Callable[[Any], int]) -> None:
        super().__init__()
        self.a, self.b, self.held, self.count = nn.Linear(4, 4), nn.Linear(4, 2), make(), count

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu()) * self.count(self.held)


def one_more(held: Any, key: Any) -> int:
    held[key] += 1
    return int(held[key])


STATES: dict[str, Callable[[], nn.Module]] = {
    "getattr": lambda: Late(lambda module: getattr(module, "last", 0)),
    "hasattr": lambda: Late(lambda module: module.last if hasattr(module, "last") else 0),
    "an exception": lambda: Late(tried),
    "a list": lambda: Counting(list, lambda held: (held.append(1), len(held))[1]),
    "an item": lambda: Counting(lambda: [0], lambda held: one_more(held, 0)),
    "a dictionary": lambda: Counting(lambda: {"n": 0}, lambda held: one_more(held, "n")),
    "a set": lambda: Counting(set, lambda held: (held.add(len(held)), len(held))[1]),
}


@pytest.mark.parametrize("name", STATES)
def test_state_that_the_next_run_reads(name: str) -> None:
    model, x = ft.randomize(STATES[name]().eval()), torch.randn(2, 4)
    plan = ft.plan(model, x)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for _ in range(3):
        assert torch.equal(network(x), model(x))


SIZES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a text": lambda x, h: h[: len("x" * x.shape[0]) - 1],
    "a set": lambda x, h: (h, {1, x.shape[1]}),
    "keys": lambda x, h: {x.shape[0]: h},
    "keys of two sizes": lambda x, h: {x.shape: h, ("rows", x.shape[0]): h},
    "a frozen set": lambda x, h: (h, frozenset({(1, x.shape[0])})),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_are_hashed_or_repeat_a_text(name: str) -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            return SIZES[name](x, self.a(x))

    model, x = Sized().eval(), torch.randn(3, 4)
    plan = ft.plan(model, x)
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    assert ft.verify(model, network, x).passed
    other = torch.randn(5, 4)
    try:
        found = network(other)
    except GuardError:
        return
    assert str(found) == str(model(other))


def test_a_set_among_the_inputs_stays_the_callers() -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor, seen: set[int]) -> Tensor:
            seen.add(7)
            return self.a(x) * len(seen)

    model, x, seen = Adds().eval(), torch.randn(2, 4), {1}
    plan = ft.plan(model, x, seen)
    assert seen == {1}
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    assert torch.equal(network(x, {1}), model(x, {1}))


def test_a_memory_format_is_saved() -> None:
    class Formats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.self = nn.Conv2d(3, 4, 1), nn.Linear(2, 2)  # `self` is what the code has for the network

        def forward(self, x: Tensor) -> Tensor:
            return self.self(self.a(x).contiguous(memory_format=torch.channels_last).relu())

    model, x = Formats().eval(), torch.randn(1, 3, 2, 2)
    plan = ft.plan(model, x)
    network, file = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0)), io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), model(x))
