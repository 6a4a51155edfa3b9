"""What a plan rests on in a model: every change of it is noticed wherever the plan is used, and nothing else is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fxteleport as ft

X = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """Reads settings of its own, and leaves a trace of its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.again, self.rest = nn.Linear(8, 8), nn.Linear(8, 8), nn.Dropout()
        self.roll, self.act, self.how, self.sizes = 2, F.relu, {"gain": 2.0}, [2, 4]
        self.log: list[int] = []
        self.runs, self.last = 0, None

    def forward(self, x: Tensor) -> Tensor:
        self.runs = self.runs + 1
        self.rest.p = 0.25
        self.log.append(self.runs)
        self.last = x.shape
        x = self.act(self.up(x)).roll(self.roll, 1) * self.how["gain"]
        return self.again(self.rest(x).unflatten(1, self.sizes).flatten(1))


class Net(nn.Module):
    order: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.MaxPool2d(2)
        self.act, self.drop = nn.LeakyReLU(0.1), nn.Dropout(0.1)
        self.body, self.a, self.b = Block(), nn.Linear(8, 8), nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.a.weight
        self.out = nn.Linear(8, 2)
        self.register_buffer("order", torch.tensor([3, 1, 2, 0, 4, 7, 6, 5]))
        self.register_buffer("scale", torch.tensor(1.5))
        self.trainer: Any = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.pool(self.norm(self.conv(x)))).mean((2, 3))
        x = self.drop(self.body(x))[:, self.order]
        x = torch.relu(self.b(torch.relu(self.a(x) * self.scale)))
        return self.out(torch.relu(self.tied(x)))


def network() -> Net:
    torch.manual_seed(0)
    return ft.randomize(Net().eval())  # type: ignore[return-value]


def setting(place: str, value: Any) -> Callable[[Net], None]:
    def change(model: Net) -> None:
        path, _, name = place.rpartition(".")
        setattr(model.get_submodule(path), name, value)

    return change


def in_a_dictionary(model: Net) -> None:
    model.body.how["gain"] = 3.0


def in_a_list(model: Net) -> None:
    model.body.sizes.reverse()


def add_hook(model: Net) -> None:
    model.a.register_forward_hook(lambda module, inputs, out: out * 2)


def clip(gradient: Tensor) -> Tensor:
    return gradient.clamp(-0.1, 0.1)


def add_backward_hook(model: Net) -> None:
    model.a.register_full_backward_hook(lambda module, inner, outer: tuple(map(clip, inner)))


def add_gradient_hook(model: Net) -> None:
    model.a.weight.register_hook(clip)


def add_hook_after_gradients(model: Net) -> None:
    model.a.weight.register_post_accumulate_grad_hook(lambda p: None)


def replace_forward(model: Net) -> None:
    model.body.forward = MethodType(lambda self, x: self.up(x), model.body)  # type: ignore[method-assign]


def swap(model: Net) -> None:
    model.act = nn.Hardtanh()  # type: ignore[assignment]


def swap_for_one_of_its_class(model: Net) -> None:
    model.conv = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")


def parametrize(model: Net) -> None:
    parametrizations.weight_norm(model.b)


def permute(model: Net) -> None:
    with torch.no_grad():
        model.order.copy_(model.order.flip(0))


def permute_unseen(model: Net) -> None:
    model.order.data[:2] = torch.tensor([1, 3])


def redraw(model: Net) -> None:
    model.order = torch.arange(8)


def resize(model: Net) -> None:
    model.order = torch.arange(4)


def load(model: Net) -> None:
    model.load_state_dict({**model.state_dict(), "order": torch.arange(8)})


def tie(model: Net) -> None:
    model.b.weight = model.body.up.weight


def share(model: Net) -> None:
    model.b.weight.data = model.body.up.weight.data.t()


def untie(model: Net) -> None:
    model.tied.weight = nn.Parameter(model.a.weight.detach().clone())


def untie_by_copying(model: Net) -> None:
    model.tied = copy.deepcopy(model.tied)


def reshape(model: Net) -> None:
    model.b.weight = nn.Parameter(torch.randn(8, 4))


def of_integers(model: Net) -> None:
    model.b.weight = nn.Parameter(torch.ones(8, 8, dtype=torch.int64), requires_grad=False)


CHANGES = {
    "stride": (setting("conv.stride", (2, 2)), "conv"),
    "padding": (setting("conv.padding", (0, 0)), "conv"),
    "eps": (setting("norm.eps", 0.1), "norm"),
    "kernel size": (setting("pool.kernel_size", 3), "pool"),
    "slope": (setting("act.negative_slope", -0.5), "act"),
    "p": (setting("drop.p", 0.5), "drop"),
    "number": (setting("body.roll", 1), "body"),
    "function": (setting("body.act", torch.tanh), "body"),
    "dictionary": (in_a_dictionary, "body"),
    "list": (in_a_list, "body"),
    "hook": (add_hook, "a"),
    "backward hook": (add_backward_hook, "a"),
    "gradient hook": (add_gradient_hook, "a"),
    "hook after gradients": (add_hook_after_gradients, "a"),
    "forward": (replace_forward, "body"),
    "module": (swap, "act"),
    "module of its class": (swap_for_one_of_its_class, "conv"),
    "parametrized": (parametrize, "b"),
    "permuted": (permute, "order"),
    "permuted unseen": (permute_unseen, "order"),
    "redrawn": (redraw, "order"),
    "resized": (resize, "order"),
    "loaded": (load, "order"),
    "tied": (tie, "b.weight"),
    "shared": (share, "weight"),
    "untied": (untie, "tied.weight"),
    "untied by copying": (untie_by_copying, "tied.weight"),
    "reshaped": (reshape, "b"),
    "of integers": (of_integers, "b"),
}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("before", ["new", "used"])
def test_a_change_is_noticed_where_it_is_used(name: str, before: str) -> None:
    change, said = CHANGES[name]
    model = network()
    plan = ft.plan(model, X, mode="weights")
    cob = plan.sample(exact=True, seed=0)
    if before == "used":
        plan.apply_(cob)
    change(model)
    held = state(model)
    for use in (
        lambda: plan.apply_(cob),
        lambda: plan.rewrite(cob),
        lambda: plan.at(cob),
    ):
        with pytest.raises(ft.ModelError, match=rf"'{said}'|{said}"):
            use()
    assert same(state(model), held)


@pytest.mark.parametrize("name", CHANGES)
def test_a_copy_must_be_like_the_planned_model(name: str) -> None:
    model = network()
    plan = ft.plan(model, X, mode="weights")
    other = copy.deepcopy(model)
    CHANGES[name][0](other)
    held = state(other)
    with pytest.raises(ft.ModelError):
        plan.apply_(plan.sample(exact=True, seed=0), other)
    assert same(state(other), held)


@pytest.mark.parametrize("name", ["stride", "hook", "permuted", "tied", "dictionary"])
@pytest.mark.parametrize("mode", ["full", "weights"])
def test_a_live_network_is_left_as_it_is(name: str, mode: str) -> None:
    model = network()
    live = ft.Teleportable(model, X, mode=mode)
    live.teleport_(live.plan.sample(exact=True, seed=0))
    CHANGES[name][0](model)
    held = state(live)
    with pytest.raises(ft.ModelError):
        live.teleport_(live.plan.sample(exact=True, seed=1))
    assert same(state(live), held)


# -- what is no change -----------------------------------------------------------------------------------


def run(model: Net) -> None:
    model(X)
    model.train()(X)
    model.eval()


def train(model: Net) -> None:
    with torch.no_grad():
        model.a.weight.mul_(2)
        model.norm.running_mean.add_(1)


def unread(model: Net) -> None:
    model.trainer, model.epoch = object(), 3  # type: ignore[assignment]
    model.requires_grad_(False)


def half(model: Net) -> None:
    model.to(torch.bfloat16)


def lay_out_anew(model: Net) -> None:
    model.to(memory_format=torch.channels_last)
    model.b.weight.data = model.b.weight.data.t().contiguous().t()


def set_alike(model: Net) -> None:
    model.conv.stride, model.act.negative_slope = (int("1"), 1), float("0.1")
    model.order = model.order.clone()
    model.act = nn.LeakyReLU(0.1)
    model.body.how = {"gain": 2.0}


@pytest.mark.parametrize("change", [run, train, unread, half, lay_out_anew, set_alike, copy.deepcopy])
def test_no_other_change_is(change: Callable[[Net], Any]) -> None:
    model = network()
    plan = ft.plan(model, X, mode="weights")
    cob = plan.sample(exact=True, seed=0)
    plan.apply_(cob)
    change(model)
    expected, x = copy.deepcopy(model), X.to(model.a.weight.dtype)
    plan.apply_(cob)
    assert torch.equal(model(x), expected(x))
    assert torch.equal(plan.rewrite(cob)(x), expected(x))
    plan.apply_(cob, expected)
    assert torch.equal(model(x), expected(x))


def test_a_weight_transposed_in_place_is_scaled_as_it_lies() -> None:
    model = network()
    plan = ft.plan(model, X, mode="weights")
    plan.apply_(plan.sample(exact=True, seed=0))
    with torch.no_grad():
        model.b.weight.t_()
    expected = model(X)
    plan.apply_(plan.sample(exact=True, seed=1))
    assert torch.equal(model(X), expected)


def test_settings_that_a_property_hides_are_left_alone() -> None:
    class Odd(nn.Module):
        level = 1.0

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)
            self.__dict__["gain"] = 5.0
            self.mine = 2.0

        @property
        def gain(self) -> float:
            return 3.0

        @gain.setter
        def gain(self, value: float) -> None: ...

        def forward(self, x: Tensor) -> Tensor:
            assert "mine" in vars(self) and not hasattr(type(self), "missing") and not hasattr(self, "missing")
            extra = self.mine * self.level + self.gain
            del self.mine
            assert not hasattr(self, "mine")
            self.mine = 2.0
            return self.b(torch.relu(self.a(x)) * extra)

    model = ft.randomize(Odd().eval())
    x = torch.randn(2, 4)
    plan = ft.plan(model, x, mode="weights")
    expected = model(x)
    plan.apply_(plan.sample(exact=True, seed=0))
    assert torch.equal(model(x), expected)
    assert not plan.opaque


# -- files and other weights -----------------------------------------------------------------------------


def permuted() -> Net:
    model = network()
    permute(model)
    return model


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_the_saved_indices_are_planned_with(mode: str, tmp_path: Path) -> None:
    model = network()
    plan = ft.plan(model, X, mode=mode)
    ft.save(tmp_path / "net", plan.rewrite(plan.sample(exact=True, seed=0)), "mine")
    other = permuted()
    assert torch.equal(ft.load(tmp_path / "net", other)(X), model(X))
    assert torch.equal(other.order, permuted().order)  # the caller's is not touched


@pytest.mark.parametrize("name", ["slope", "number", "stride", "function"])
def test_a_checkpoint_of_other_settings_is_refused(name: str, tmp_path: Path) -> None:
    plan = ft.plan(network(), X)
    ft.save(tmp_path / "net", plan.rewrite(plan.identity()), "mine")
    other = network()
    CHANGES[name][0](other)
    with pytest.raises(ft.CheckpointError, match="settings"):
        ft.load(tmp_path / "net", other)


def test_an_emitted_network_takes_no_other_indices() -> None:
    model = network()
    plan = ft.plan(model, X)
    for made in (plan.rewrite(plan.sample(seed=0)), copy.deepcopy(plan.rewrite(plan.sample(seed=0)))):
        held = state(made)
        with pytest.raises(ft.ModelError, match="order"):
            made.load_state_dict({**held, "order": torch.arange(8)})
        assert same(state(made), held)
        made.load_state_dict(held)
    live = ft.Teleportable(model, X)
    live.teleport_(live.plan.sample(seed=0))
    with pytest.raises(ft.ModelError, match="order"):
        live.load_state_dict({**live.state_dict(), "network.order": torch.arange(8)})


def test_other_indices_are_neither_streamed_nor_aligned(tmp_path: Path) -> None:
    plan = ft.plan(network(), X, mode="weights")
    other = {n: t.clone() for n, t in permuted().state_dict().items()}
    save_file(other, tmp_path / "in.safetensors")
    with pytest.raises(ft.ModelError, match="order"):
        ft.stream(plan, plan.sample(seed=0), tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    for given in (other, permuted()):
        with pytest.raises(ft.ModelError, match="order"):
            plan.align(network(), given)


def test_memory_that_is_shared_is_not_scaled_twice_in_place() -> None:
    model = network()
    share(model)
    with pytest.raises(ft.ModelError, match="shares memory"):
        ft.Teleportable(model, X)
    ft.Teleportable(model, X, mode="weights").teleport_(ft.plan(model, X, mode="weights").sample(exact=True, seed=0))


class Holder(nn.Module):
    """Holds another layer's weight by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 4)
        self.held = [self.first.weight]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.first(x))) @ self.held[0].t()
        return out


def test_a_weight_that_code_holds_must_stay_the_same_object() -> None:
    model = ft.randomize(Holder())
    for mode in ("full", "weights"):
        plan = ft.plan(model, torch.randn(3, 4), mode=mode)
        kept = model.first.weight
        model.first.weight = nn.Parameter(kept.detach() * 2)
        with pytest.raises(ft.ModelError, match="code that holds it by itself keeps the old one"):
            plan.rewrite(plan.identity())
        model.first.weight = kept
        assert torch.equal(plan.rewrite(plan.identity()).first.weight, kept)
