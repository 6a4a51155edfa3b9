"""A forward that sets where torch's random numbers are, under any name, is kept whole: no graph does that."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, is_grad_enabled, manual_seed, nn
from torch.random import fork_rng, get_rng_state, set_rng_state
from torch.utils.checkpoint import checkpoint

import fxteleport as ft
from fxteleport.passes.capture.patching import aware_of_proxies, under_their_names

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, draw: Callable[[], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.draw = nn.Linear(6, 8), nn.Linear(8, 2), draw

    def forward(self, x: Tensor) -> Any:
        return self.b(torch.relu(self.a(x))) + self.draw() + torch.rand(2)


def seeded() -> Tensor:
    torch.manual_seed(3)
    return torch.rand(2)


def by_name() -> Tensor:
    manual_seed(3)
    return torch.rand(2)


def by_module() -> Tensor:
    torch.random.manual_seed(3)
    return torch.rand(2)


def by_generator() -> Tensor:
    torch.default_generator.manual_seed(3)
    return torch.rand(2)


def forked() -> Tensor:
    with fork_rng(devices=[]):
        return torch.rand(2)


def put_back() -> Tensor:
    state = get_rng_state()
    drawn = torch.rand(2)
    set_rng_state(state)
    return drawn


def put_back_by_torch() -> Tensor:
    state = torch.get_rng_state()
    drawn = torch.rand(2)
    torch.set_rng_state(state)
    return drawn


def drawn() -> Tensor:
    return torch.rand(2)


@torch.no_grad()
@pytest.mark.parametrize(
    "draw",
    [seeded, by_name, by_module, by_generator, forked, put_back, put_back_by_torch, drawn],
    ids=lambda f: f.__name__,
)
def test_a_run_draws_what_the_models_does(draw: Callable[[], Tensor]) -> None:
    model = ft.randomize(Net(draw).eval())
    plan = ft.plan(model, X)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert bool(plan.opaque) is (draw is not drawn)
    for seed in (1, 2):
        torch.manual_seed(seed)
        wanted = model(X), torch.rand(1)
        torch.manual_seed(seed)
        found = network(X), torch.rand(1)
        assert all(map(torch.equal, wanted, found))


def test_a_checkpoint_may_note_where_they_are() -> None:
    class Checkpointed(Net):
        def forward(self, x: Tensor) -> Any:
            return self.b(checkpoint(lambda h: torch.relu(self.a(h)), x, use_reentrant=False))

    plan = ft.plan(Checkpointed(drawn).eval(), X)
    assert (plan.num_free, list(plan.opaque)) == (8, [])


def test_a_mode_that_is_asked_for_by_name() -> None:
    class Asks(Net):
        def forward(self, x: Tensor) -> Any:
            h = torch.relu(self.a(x)) * math.sqrt(x.shape[0])
            return self.b(h * 2 if is_grad_enabled() else h)

    model = ft.randomize(Asks(drawn).eval())
    plan = ft.plan(model, X)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for recording in (False, True):
        with torch.set_grad_enabled(recording):
            assert torch.equal(network.train(recording)(X), model.train(recording)(X))


def test_names_are_as_they_were() -> None:
    table: dict[str, Any] = {"root": math.sqrt, "other": len}
    imports = [(table, "root"), (table, "other")]
    with aware_of_proxies(), under_their_names(imports), under_their_names(imports):
        assert table["root"] is math.sqrt  # the patched one
        assert table["root"].__wrapped__
        assert table["other"] is len
    assert table == {"root": math.sqrt, "other": len}
    assert not hasattr(table["root"], "__wrapped__")
