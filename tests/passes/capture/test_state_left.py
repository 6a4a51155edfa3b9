"""State: what a forward leaves in attributes for its next run, and what it only stores, or makes of sizes."""

from __future__ import annotations

import collections
import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft

pytestmark = pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
G = torch.Generator().manual_seed(0)
RUNS = [torch.randn(n, 6, generator=G) for n in (4, 4, 4, 3)]


class Net(nn.Module):
    held: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.u = nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(8, 8)
        self.held = copy.copy(type(self).held)


class Recurrent(Net):
    def forward(self, x: Tensor) -> Tensor:
        if self.held is None or self.held.shape[0] != x.shape[0]:
            self.held = torch.zeros(x.shape[0], 8)
        self.held = torch.tanh(self.a(x) + self.u(self.held))
        return self.b(self.held)


class Before(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        before = torch.zeros_like(h) if self.held is None else self.held
        self.held = h.detach()
        return self.b(h + before.mean(0))


class Listed(Net):
    held: Any = []

    def forward(self, x: Tensor) -> Tensor:
        self.held.append(torch.relu(self.a(x)).mean(0))
        return self.b(torch.relu(self.a(x)) + torch.stack(list(self.held)).mean(0))


class Queue(Listed):
    held: Any = collections.deque(maxlen=2)


class Table(Net):
    held: Any = {}

    def forward(self, x: Tensor) -> Tensor:
        h, before = torch.relu(self.a(x)), self.held.get("last", 0.0)
        self.held["last"] = h.mean(0)
        return self.b(h + before)


class Sum(Net):
    held: Any = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.held = self.held + torch.relu(self.a(x)).mean()
        return self.b(torch.relu(self.a(x)) * self.held)


class Stored(Net):
    """Set before it is read."""

    def forward(self, x: Tensor) -> Tensor:
        self.held = torch.relu(self.a(x))
        return self.read()

    def read(self) -> Tensor:
        return self.b(self.held)


class Logged(Net):
    held: Any = []

    def forward(self, x: Tensor) -> Tensor:
        self.held.append(torch.relu(self.a(x)))
        return self.b(self.held[-1])


class Cleared(Logged):
    def forward(self, x: Tensor) -> Tensor:
        self.held.clear()
        return super().forward(x)


class OfSizes(Net):
    def forward(self, x: Tensor) -> Tensor:
        if self.held is None or self.held.shape[0] != x.shape[0]:
            self.held = torch.arange(x.shape[0]).float()[:, None]
        return self.b(F.relu(self.a(x)) * self.held)


class OfWeights(Net):
    """A table by device that eval mode keeps, as LeViT has."""

    held: Any = {}

    def forward(self, x: Tensor) -> Tensor:
        if "cpu" not in self.held:
            self.held["cpu"] = self.u.weight[:, torch.arange(8)]
        return self.b(F.relu(self.a(x)) @ self.held["cpu"])


class Looked(Net):
    """It is asked for, and nothing comes of it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.held is not None:
            assert self.held.shape[1] == 8
        self.held = torch.relu(self.a(x))
        return self.b(self.held)


class Cast(Net):
    """A constant that each run casts to the type of its input, as super-resolution networks do with a mean."""

    held: Any = torch.linspace(0, 1, 6)

    def forward(self, x: Tensor) -> Tensor:
        self.held = self.held.type_as(x)
        return self.b(F.relu(self.a(x - self.held.to(x))))


class Fresh(Net):
    """Zeros of the form of the input, which the run before has left."""

    def forward(self, x: Tensor) -> Tensor:
        offset = 0 if self.held is None or self.held.shape != x.shape else self.held
        self.held = torch.zeros_like(x) + x.new_ones(6)
        return self.b(F.relu(self.a(x + offset)))


class Longest(Net):
    """A table that grows with the longest input so far; which that is, is a number."""

    longest = 0

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > self.longest:
            self.longest = x.shape[0]
            self.held = torch.arange(self.longest).float()[:, None].cos()
        return self.b(F.relu(self.a(x)) * self.held[: x.shape[0]])


class Keyed(Net):
    """A table that is made anew where its key is another."""

    key: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if self.key != (x.shape[0], x.dtype):
            self.key, self.held = (x.shape[0], x.dtype), torch.arange(x.shape[0]).float()[:, None]
        return self.b(F.relu(self.a(x)) * self.held)


class Grids(Net):
    """One table a scale, as detectors have them."""

    held: Any = [torch.empty(0), torch.empty(0)]

    def forward(self, x: Tensor) -> Tensor:
        if self.held[0].shape[:1] != x.shape[:1]:
            self.held[0] = torch.arange(x.shape[0]).float()[:, None]
        return self.b(F.relu(self.a(x)) * self.held[0])


class Calibrated(Net):
    """Once and for all, by the size of the first input."""

    def forward(self, x: Tensor) -> Tensor:
        if self.held is None:
            self.held = torch.ones(()) * x.shape[0]
        return self.b(F.relu(self.a(x))) * self.held


class Counted(Net):
    def forward(self, x: Tensor) -> Tensor:
        if self.held is None:
            self.held = x.shape[0]
        return self.b(F.relu(self.a(x))) * self.held


class Missing(Net):
    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "first"):
            self.first = x.shape[0]
        return self.b(F.relu(self.a(x))) * self.first


class LateWeights(Net):
    """What is made of weights alone is there in the second run only."""

    def forward(self, x: Tensor) -> Tensor:
        offset = 0 if self.held is None else self.held
        self.held = self.u.weight.sum(0)
        return self.b(F.relu(self.a(x) + offset))


class Derived(Net):
    """A property that is computed once: from the size of the first input."""

    size = 0

    @functools.cached_property
    def scale(self) -> Tensor:
        return torch.ones(8) * self.size

    def forward(self, x: Tensor) -> Tensor:
        self.size = x.shape[0]
        return self.b(F.relu(self.a(x)) * self.scale)


class OfWeight(Net):
    """A property that is computed once: from a weight."""

    @functools.cached_property
    def scale(self) -> Tensor:
        return self.u.weight.abs().sum(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)) * self.scale)


class Deletes(Net):
    """The first run finds an attribute that it deletes."""

    held: Any = True

    def __init__(self) -> None:
        super().__init__()
        self.first = True

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        if hasattr(self, "first"):
            del self.first
            h = h * 2
        return self.b(h)


class Elsewhere(Net):
    """Attributes that are kept in a dictionary of its own, past those of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["store"] = {}

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["store"].get(name) if name.startswith("kept_") else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("kept_"):
            self.__dict__["store"][name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        offset = 0 if self.kept_h is None else self.kept_h.mean(0)
        self.kept_h = h
        return self.b(h + offset)


REMADE = [OfSizes, OfWeights, OfWeight, Longest, Keyed, Grids, Cast]
DIFFERING = [Recurrent, Before, Listed, Queue, Table, Sum, Fresh, LateWeights, Elsewhere]


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("kind", DIFFERING)
def test_what_the_next_run_reads_keeps_the_module_whole(kind: type[Net], warm: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 6), kind()).eval()
    with torch.no_grad():
        if warm:
            model(RUNS[0])
        plan = ft.plan(model, RUNS[0])
        assert plan.num_free == 7
        assert [o.node for o in plan.opaque] == ["_3"]
        network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
        for x in RUNS[:3]:
            assert torch.equal(network(x), model(x))


@pytest.mark.parametrize("kind", [Calibrated, Counted, Missing, Derived, Deletes])
def test_what_the_first_size_decides_for_all_runs(kind: type[Net]) -> None:
    model = kind().eval()
    with torch.no_grad():
        plan = ft.plan(model, RUNS[0])
        assert plan.opaque
        network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
        for x in RUNS:
            assert torch.equal(network(x), model(x))


class OfClass(nn.Module):
    """State that the class has the first value of."""

    held: Any = None
    count = 0

    def __init__(self, leave: Any) -> None:
        super().__init__()
        self.a, self.b, self.leave = nn.Linear(6, 8), nn.Linear(8, 2), leave

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        offset = 0 if self.held is None else self.held
        self.count += 1
        self.held = self.leave(h) * self.count
        return self.b(h + offset)


@pytest.mark.parametrize(
    "leave", [lambda h: h.mean(0), lambda h: torch.ones(8), torch.ones_like], ids=["h", "1", "like"]
)
def test_state_of_which_the_class_has_the_first_value(leave: Any) -> None:
    model = OfClass(leave).eval()
    with torch.no_grad():
        plan = ft.plan(model, RUNS[0])
        assert plan.opaque
        network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
        for x in RUNS[:3]:
            assert torch.equal(network(x), model(x))


def count() -> None:
    """Keeps a number as an attribute of its own."""


def test_an_attribute_of_a_function_is_refused() -> None:
    class Counting(Net):
        def forward(self, x: Tensor) -> Tensor:
            count.calls = getattr(count, "calls", 0) + 1  # type: ignore[attr-defined]
            return self.b(F.relu(self.a(x)) * count.calls)  # type: ignore[attr-defined]

    with pytest.raises(ft.CaptureError, match="calls of count, which the whole program shares"):
        ft.plan(Counting().eval(), RUNS[0])
    assert not vars(count)


def test_a_list_of_the_class_is_refused() -> None:
    class Shared(Net):
        log: Any = []

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.a(x))
            self.log.append(h.mean(0))
            return self.b(h + sum(self.log[:-1], torch.zeros(8)))

    with pytest.raises(ft.CaptureError, match="which the whole program shares"):
        ft.plan(Shared().eval(), RUNS[0])


def test_an_attribute_of_the_class_that_has_changed_since() -> None:
    class Scaled(Net):
        factor = 2.0

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x)) * self.factor)

    model = Scaled().eval()
    plan = ft.plan(model, RUNS[0])
    plan.rewrite(plan.sample(0.9, seed=0))
    Scaled.factor = 3.0
    with pytest.raises(ft.ModelError, match=r"'factor' of the model itself was 2\.0 and is 3\.0"):
        plan.rewrite(plan.sample(0.9, seed=0))


@pytest.mark.parametrize("kind", [Stored, Cleared, Looked, *REMADE])
def test_what_it_only_stores_costs_nothing(kind: type[Net]) -> None:
    model = kind().eval()
    with torch.no_grad():
        plan = ft.plan(model, RUNS[0])
        assert plan.num_free == (16 if kind in (OfWeights, OfWeight) else 8)
        assert not plan.opaque
        network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
        for x in RUNS:
            assert torch.equal(network(x), model(x))


def test_a_log_of_which_the_last_entry_is_read_is_exact() -> None:
    model = Logged().eval()
    with torch.no_grad():
        plan = ft.plan(model, RUNS[0])
        network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
        for x in RUNS:
            assert torch.equal(network(x), model(x))
    assert plan.num_free == 8


def test_state_of_train_mode_refuses_train_mode() -> None:
    class Centred(Net):
        held: Any = 0.0

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.a(x))
            if self.training:
                self.held = 0.9 * self.held + 0.1 * h.detach().mean(0)
                h = h - self.held
            return self.b(h)

    model = Centred().eval()
    plan = ft.plan(model, RUNS[0])
    assert plan.num_free == 8
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert torch.equal(network(RUNS[1]), model(RUNS[1]))
    with pytest.raises(ft.InputError, match="computes something else in the next run"):
        network.train()(RUNS[0])
