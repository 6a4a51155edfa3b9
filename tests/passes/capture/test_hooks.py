"""Forward hooks: what they change, and what they store for a forward to read, is part of the graph."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import weight_norm

import fxteleport as ft

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Watched(nn.Module):
    """A network that reads what a hook on one of its parts has stored."""

    def __init__(self, at: int | None) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)
        )
        self.seen: dict[str, Tensor] = {}
        self.kept: Any = None
        part = self.body if at is None else self.body[at]
        part.register_forward_hook(self.hook())

    def hook(self) -> Callable[..., Any]:
        raise NotImplementedError

    def read(self) -> Tensor:
        return self.seen["it"]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.body(x), self.read() * 2


class ByMethod(Watched):
    def hook(self) -> Callable[..., Any]:
        return self.store

    def store(self, module: nn.Module, args: Any, out: Tensor) -> None:
        self.seen["it"] = out


class ByClosure(Watched):
    def hook(self) -> Callable[..., Any]:
        return lambda module, args, out: self.seen.__setitem__("it", out)


class ByNestedClosure(Watched):
    def hook(self) -> Callable[..., Any]:
        def store_as(name: str) -> Callable[..., Any]:
            def store(module: nn.Module, args: Any, out: Tensor) -> None:
                setattr(self, name, out)

            return store

        return store_as("kept")

    def read(self) -> Tensor:
        return self.kept


class ByPartial(ByMethod):
    def hook(self) -> Callable[..., Any]:
        return functools.partial(ByMethod.store, self)


class ByList(Watched):
    """The list is nobody's attribute."""

    def hook(self) -> Callable[..., Any]:
        found: list[Tensor] = []
        self.read = lambda: found[-1]  # type: ignore[method-assign]
        return lambda module, args, out: found.append(out)


class Keeper:
    def __call__(self, module: nn.Module, args: Any, out: Tensor) -> None:
        self.out = out


class ByObject(Watched):
    def hook(self) -> Callable[..., Any]:
        self.keeper = Keeper()
        return self.keeper

    def read(self) -> Tensor:
        return self.keeper.out


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("at", [0, 1, 2, 4, 5, None])
@pytest.mark.parametrize("kind", [ByMethod, ByClosure, ByNestedClosure, ByPartial, ByList, ByObject])
@pytest.mark.parametrize("ran", [False, True])
def test_what_a_hook_stores(
    kind: type[Watched], at: int | None, mode: str, ran: bool, assert_exact: Callable[..., ft.Plan]
) -> None:
    """Whether something was stored before or not, each run of the emitted network has its own."""
    model = kind(at).eval()
    if ran:
        model(torch.randn(3, 4))
    before = dict(model.seen), model.kept
    plan = assert_exact(model, X, mode=mode, randomize=False)
    assert not plan.opaque
    model.seen, model.kept = {}, None
    gm, other = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1)), torch.randn(7, 4)
    for a, b in zip(model(other), gm(other), strict=True):
        assert torch.equal(a, b)
    assert all(type(x) is Tensor and not x.is_meta for x in [*before[0].values(), before[1]] if x is not None)


@pytest.mark.parametrize("kind", [ByMethod, ByClosure, ByNestedClosure, ByPartial])
def test_planning_stores_nothing(kind: type[Watched]) -> None:
    model = kind(0).eval()
    plan = ft.plan(model, X)
    assert (model.seen, model.kept) == ({}, None)
    plan.rewrite(plan.sample(0.5, seed=0))(X)
    assert (model.seen, model.kept) == ({}, None)


def both(module: nn.Module, hook: Callable[..., Any], **settings: Any) -> nn.Module:
    module.register_forward_hook(hook, **settings)
    return module


class Norm(nn.BatchNorm1d):
    """A batch norm with an activation."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


class Drops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 3 if self.training else x


def doubled(module: nn.Module, args: Any, out: Tensor) -> Tensor:
    return out * 2


def with_keywords(module: nn.Module, args: Any, kwargs: Any, out: Tensor) -> Tensor:
    return out * 2


CHANGED: dict[str, tuple[Callable[[], nn.Module], int, int]] = {  # free values in full, in weights
    "a layer": (lambda: both(nn.Linear(8, 8), doubled), 16, 16),
    "an activation": (lambda: both(nn.ReLU(), doubled), 8, 8),
    "a batch norm": (lambda: both(nn.BatchNorm1d(8), doubled), 8, 8),
    "a batch norm of one's own": (lambda: both(Norm(8), doubled), 8, 8),
    "a dropout": (lambda: both(nn.Dropout(0.5), doubled), 8, 8),
    "a module that reads its mode": (lambda: both(Drops(), doubled), 8, 8),
    "keywords": (lambda: both(nn.Linear(8, 8), with_keywords, with_kwargs=True), 16, 16),
    "always": (lambda: both(nn.Linear(8, 8), doubled, always_call=True), 16, 16),
    "in front": (lambda: both(nn.Identity(), doubled, prepend=True), 8, 8),
    "a weight norm, by hook": (lambda: weight_norm(nn.Linear(8, 8)), 9, 9),
}


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_a_hook_changes(name: str, mode: str, assert_exact: Callable[..., ft.Plan]) -> None:
    """Once: the emitted layer has no hook of its own."""
    build, *free = CHANGED[name]
    model = nn.Sequential(nn.Linear(4, 8), build(), nn.Linear(8, 3))
    plan = assert_exact(model, X, mode=mode, at_least=0)
    assert not plan.opaque
    assert plan.num_free == free[mode == "weights"]
    if mode == "weights":
        with torch.no_grad():
            model(X)  # else a weight that a hook computed has a gradient, and `deepcopy` takes none
        cob, changed = plan.sample(0.9, "inter", exact=True, seed=1), copy.deepcopy(model)
        plan.apply_(cob, changed)
        assert torch.equal(changed(X), model(X))


class WeightNormed(nn.Module):
    """torch's own hook computes one of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(4, 8), weight_norm(nn.LSTM(8, 8), "weight_hh_l0"), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x)[None])[0] + self.first(x))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchs_hooks_on_intricate_layers(assert_exact: Callable[..., ft.Plan]) -> None:
    plan = assert_exact(WeightNormed(), X, at_least=0)
    assert [o.why for o in plan.opaque] == ["'layer': it has forward hooks, which may change its values"]


class Sequence(nn.Module):
    """A recurrent layer or an attention, which are kept whole, with a hook that changes what they give."""

    def __init__(self, layer: nn.Module, hook: Callable[..., Any]) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(4, 8), layer, nn.Linear(8, 3)
        layer.register_forward_hook(hook)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.expand(2, -1, -1))
        out = self.layer(h, h, h) if isinstance(self.layer, nn.MultiheadAttention) else self.layer(h)
        return self.last(out[0])


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("layer", [lambda: nn.LSTM(8, 8), lambda: nn.GRU(8, 8), lambda: nn.MultiheadAttention(8, 2)])
def test_intricate_layers(layer: Callable[[], nn.Module], mode: str, assert_exact: Callable[..., ft.Plan]) -> None:
    model = Sequence(layer(), lambda module, args, out: (out[0].flip(0) * 2, *out[1:]))
    plan = assert_exact(model, X, mode=mode)
    assert not plan.opaque


class Counts(nn.Module):
    """Cannot be traced: it branches on its data. A hook on a part of it stores what the network reads."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.part(x)
        return x if x.sum() > 0 else -x


@pytest.mark.filterwarnings("ignore::fxteleport.errors.OpaqueModuleWarning")
def test_a_watched_part_is_not_kept_whole_without_its_watcher(assert_exact: Callable[..., ft.Plan]) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.counts, self.last = nn.Linear(4, 8), Counts(), nn.Linear(8, 3)
            self.seen: list[Tensor] = []
            self.counts.part.register_forward_hook(lambda module, args, out: self.seen.append(out))

        def forward(self, x: Tensor) -> Tensor:
            self.seen.clear()
            return self.last(self.counts(torch.relu(self.first(x)))) + self.seen[0].sum()

    model = Network().eval()
    model(X)
    plan = assert_exact(model, X, at_least=0)
    assert plan.num_free == 0
    gm, other = plan.rewrite(plan.identity()), torch.randn(3, 4)
    assert torch.equal(gm(other), model(other))


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_a_hook_of_one_network_is_not_the_others(mode: str) -> None:
    model, x = ft.randomize(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()), torch.randn(4, 5)
    plan = ft.plan(model, x, mode=mode)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    with torch.no_grad():
        want = model(x)
        handle = network.get_submodule("2").register_forward_hook(lambda module, args, out: out * 2)
        assert torch.equal(model(x), want) and torch.equal(network(x), want * 2)
        assert ft.verify(model, network, x).verdict == "different"
        handle.remove()
        model[2].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        assert torch.equal(network(x), want)
