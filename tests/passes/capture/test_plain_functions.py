"""Plain functions in which the data decide are kept whole by themselves, and the rest of the network is teleported."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

pytestmark = pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")


def by_sum(x: Tensor) -> Tensor:
    return x + 1 if x.sum() > 0 else x - 1


def inner(x: Tensor) -> Tensor:
    """The decision is the caller's: this gives a boolean."""
    return x.mean() > 0


def outer(x: Tensor) -> Tensor:
    return x * 2 if inner(x) else x


def loops(x: Tensor, by: float = 1.0, *, times: int = 2) -> Tensor:
    for _ in range(times):
        if x.max() > 1:
            x = x - by
    return x


def parts(x: Tensor) -> dict[str, Any]:
    return {"a": x[:1] if x.sum() > 0 else x[:1] + 1, "b": [x, x * 2]}


def of_parts(x: Tensor) -> Tensor:
    found = parts(x)
    return found["a"] + found["b"][0] + found["b"][1]


FUNCTIONS: list[Callable[[Tensor], Tensor]] = [by_sum, outer, loops, lambda x: loops(x, 0.5, times=1), of_parts]


class Around(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.function(self.second(torch.relu(self.first(x))))))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_is_kept_whole(function: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = ft.randomize(Around(function)).eval()
    before = by_sum.__code__, outer.__code__, loops.__code__, parts.__code__
    plan = ft.plan(model, torch.randn(5, 4), checks=True)
    assert before == (by_sum.__code__, outer.__code__, loops.__code__, parts.__code__)
    assert plan.num_free == 6
    assert plan.opaque
    assert all("function" in o.node for o in plan.opaque if "traced" in o.why)
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    for scale in (-10.0, 0.1, 1.0, 10.0):
        for batch in (1, 5, 8):
            x = torch.randn(batch, 4) * scale
            assert torch.equal(network(x), model(x))


def maybe(x: Tensor) -> Tensor | None:
    return None if x.sum() > 0 else x


class Maybe(nn.Module):
    """What the function gives decides in its turn: then what is around it is kept whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        found = maybe(self.layer(x))
        return x if found is None else found


def test_a_function_that_gives_nothing_on_some_data() -> None:
    model = ft.randomize(Around(Maybe())).eval()
    plan = ft.plan(model, torch.randn(5, 4))
    assert [o.node for o in plan.opaque] == ["function"]
    assert plan.num_free == 6
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    for seed in range(8):
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(network(x), model(x))


WEIGHTS = nn.Linear(6, 6)


def reads_weights(x: Tensor) -> Tensor:
    return WEIGHTS(x) if x.sum() > 0 else x


def test_a_function_that_reads_weights_is_not_kept_alone() -> None:
    """Its module's weights would be read as they were."""

    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = WEIGHTS

        def forward(self, x: Tensor) -> Tensor:
            return reads_weights(x)

    model = Around(Holds()).eval()
    plan = ft.plan(model, torch.randn(5, 4))
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    for scale in (-1.0, 1.0):
        x = torch.ones(2, 4) * scale
        assert torch.equal(network(x), model(x))


def of_lengths(lengths: Tensor, most: int) -> Tensor:
    """Numbers of the data decide, in a function of data alone: as a node it is right on all of them."""
    return torch.stack([torch.arange(most) < int(n) for n in lengths])


class Masks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.last((torch.relu(self.first(x)) * of_lengths(lengths, x.shape[1])[..., None]).sum(1))


def test_a_function_of_data_alone_is_right_on_other_data() -> None:
    torch.manual_seed(0)
    model = ft.randomize(Masks()).eval()
    plan = ft.plan(model, torch.randn(3, 4, 5), torch.tensor([1, 4, 2]))
    assert plan.num_free == 6
    assert not any(c.kind == "data" for c in plan.conditions)
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    for lengths in ([4, 4, 4], [1, 2, 3], [2]):
        x = torch.randn(len(lengths), 4, 5)
        assert torch.equal(network(x, torch.tensor(lengths)), model(x, torch.tensor(lengths)))


def test_other_threads_call_the_function_as_it_is() -> None:
    x, results = torch.randn(3, 6), []
    expected, done = by_sum(x), threading.Event()

    def call() -> None:
        while not done.is_set():
            results.append(torch.equal(by_sum(x), expected))

    thread = threading.Thread(target=call)
    thread.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert ft.plan(Around(by_sum).eval(), torch.randn(5, 4)).num_free == 6
    finally:
        done.set()
        thread.join()
    assert results
    assert all(results)
