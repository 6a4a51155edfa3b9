"""Layers that a forward changes: settings, weights, methods. What is emitted computes with what the layer held then."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import fxteleport as ft

pytestmark = pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Drops(nn.Module):
    """Scales a sample at random, in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.bernoulli(torch.full((x.shape[0], 1, 1, 1), 1 - self.rate)) if self.training else x


class Depends(nn.Module):
    """A convolution, and a branch that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (2 if int((x > 0).sum()) % 2 else 3)


class Changing(nn.Module):
    """conv -> relu -> a program, which may change the layers at hand -> conv."""

    def __init__(self, program: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.conv, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 2, 1)
        self.norm, self.average, self.instance = (
            nn.BatchNorm2d(6),
            nn.BatchNorm2d(6, momentum=None),
            nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
        )
        self.act, self.random, self.drop, self.drops = nn.LeakyReLU(0.1), nn.RReLU(), nn.Dropout(0.5), Drops()
        self.pool, self.up = nn.AdaptiveAvgPool2d(2), nn.Upsample(scale_factor=2.0)
        self.block, self.depends = nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU()), Depends()
        self.program = program

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.program(self, F.relu(self.first(x))))


def during(layer: nn.Module, x: Tensor, **settings: Any) -> Tensor:
    """A call of a layer with other settings, which are put back."""
    before = {name: getattr(layer, name) for name in settings}
    for name, value in settings.items():
        setattr(layer, name, value)
    out = layer(x)
    for name, value in before.items():
        setattr(layer, name, value)
    return out


def dilated(m: Any, x: Tensor) -> Tensor:
    """Three dilations of one convolution; the last is left as it is."""
    for d in (1, 2, 3):
        m.conv.dilation = m.conv.padding = (d, d)
        x = x + F.relu(m.conv(x))
    return x


def plain_weight(m: Any, x: Tensor) -> Tensor:
    weight = m.conv._parameters.pop("weight")
    m.conv.weight = weight * 2
    out = m.conv(x)
    del m.conv.weight
    m.conv._parameters["weight"] = weight
    return F.relu(out)


def other_forward(m: Any, x: Tensor) -> Tensor:
    m.act.forward = lambda x: 2 * F.relu(x)
    out = m.act(m.conv(x))
    del m.act.forward
    return out


def twice_the_block(m: Any, x: Tensor) -> Tensor:
    given = {"0.weight": 2 * m.block[0].weight, "1.weight": m.block[1].weight.abs()}
    return functional_call(m.block, given, (x,)) + m.block(x)


# name -> the program, and the free values that are expected at least with norm_stats="rescaled", in full mode
PROGRAMS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "dilation": (dilated, 6),
    "dilation, put back": (lambda m, x: m.conv(x) + during(m.conv, x, dilation=(2, 2), padding=(2, 2)), 12),
    "slope": (lambda m, x: m.act(during(m.act, m.conv(x), negative_slope=0.5)), 12),
    "a size": (lambda m, x: during(m.pool, F.relu(m.conv(x)), output_size=(x.shape[2] // 2, x.shape[3] // 2)), 12),
    "an upsampling's size": (lambda m, x: x + during(m.up, m.pool(x), scale_factor=None, size=x.shape[2:]), 6),
    "momentum": (lambda m, x: m.norm(F.relu(during(m.norm, m.conv(x), momentum=0.0))), 6),
    "momentum, by an average": (lambda m, x: m.average(F.relu(during(m.average, m.conv(x), momentum=0.5))), 6),
    "eps": (lambda m, x: m.norm(F.relu(during(m.norm, m.conv(x), eps=0.5))), 6),
    "an instance norm's": (lambda m, x: m.instance(F.relu(during(m.instance, x, momentum=0.0))), 0),
    "dropout": (lambda m, x: m.drop(during(m.drop, m.conv(x), p=0.1)), 12),
    "two dropouts of a name": (lambda m, x: m.drop(F.dropout(x, 0.1, m.drop.training)), 6),
    "a random slope": (lambda m, x: m.random(during(m.random, m.conv(x), lower=0.3, upper=0.4)), 6),
    "drop path": (lambda m, x: m.drops(m.conv(during(m.drops, x, rate=0.1))), 12),
    "a forward": (other_forward, 12),
    "functional call": (lambda m, x: m.conv(x) + functional_call(m.conv, {"bias": m.conv.bias * 2}, (x,)), 6),
    "functional call, a constant": (lambda m, x: functional_call(m.conv, {"weight": torch.ones(6, 6, 3, 3)}, (x,)), 0),
    "functional call of a block": (twice_the_block, 6),
    "a plain weight": (plain_weight, 6),
    "another's weight": (lambda m, x: during(m.conv, x, weight=m.block[0].weight, padding=0) + m.conv(x), 6),
    "without a bias": (lambda m, x: m.block(during(m.conv, x, bias=None)), 6),
    "weights by name": (lambda m, x: m.block(F.conv2d(x, m.get_parameter("conv.weight"), padding=1)), 6),
    "a block that is kept whole": (lambda m, x: (during(m.depends.conv, x, bias=None), m.depends(x))[1], 0),
}  # fmt: skip


def exact_in_train_mode(model: nn.Module, plan: ft.Plan) -> None:
    """Outputs, gradients and statistics of one step are those of the model."""
    cob = plan.sample(0.9, "inter", exact=True, seed=1)
    pair = copy.deepcopy(model).train(), copy.deepcopy(plan.rewrite(cob)).train()
    outs = []
    for network in pair:
        torch.manual_seed(0)
        out = network(X)
        (out * torch.arange(out.numel(), dtype=out.dtype).view(out.shape).cos()).sum().backward()
        outs.append(out)
    torch.testing.assert_close(*outs)
    scales, others = plan.scales(cob), dict(pair[1].named_parameters())
    for name, p in pair[0].named_parameters():
        grads = (torch.zeros_like(q) if q.grad is None else q.grad for q in (p, others[name]))
        torch.testing.assert_close(*((g * s).float() for g, s in zip(grads, (1, scales.get(name, 1)), strict=True)))
    for name, buffer in pair[0].named_buffers():
        if buffer.is_floating_point():  # not all subclasses of batch norm count what they have seen
            torch.testing.assert_close(pair[1].get_buffer(name), (buffer * scales.get(name, 1)).float())


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_layer_that_forward_changes(name: str, assert_exact: Callable[..., ft.Plan]) -> None:
    program, free = PROGRAMS[name]
    model = ft.randomize(Changing(program).eval())
    held = {k: copy.copy(vars(m)) for k, m in model.named_modules()}
    for norm_stats in ("fixed", "rescaled"):
        for mode in ("full", "weights"):
            plan = assert_exact(model, X, mode=mode, norm_stats=norm_stats, at_least=0)
            cob = plan.sample(0.9, "inter", exact=True, seed=0)
            networks = [plan.rewrite(cob), *([plan.apply_(cob, copy.deepcopy(model))] if mode == "weights" else [])]
            for network in networks:
                assert torch.equal(network(X), model(X))
                assert torch.equal(network(OTHER), model(OTHER))
            if norm_stats == "fixed":
                exact_in_train_mode(model, plan)
            elif mode == "full":
                assert plan.num_free >= free
    if name != "dilation":
        assert {k: vars(m) for k, m in model.named_modules()} == held


def test_the_mode_of_a_layer_that_is_given_its_tensors() -> None:
    """A frozen batch norm in a network that trains: so is the leaf that stands for it."""
    model = Changing(PROGRAMS["momentum"][0]).train()
    model.norm.eval()
    network = ft.plan(model, X).rewrite(ft.plan(model, X).sample(exact=True, seed=0))
    network(X)
    assert torch.equal(network.norm.running_mean, model.norm.running_mean)


class Dropped(nn.Module):
    """A weight that forward computes from a parameter, and sets as a plain attribute."""

    def __init__(self, layer: nn.Module, name: str) -> None:
        super().__init__()
        self.layer, self.name = layer, name
        layer.register_parameter("raw", layer._parameters.pop(name))

    def forward(self, x: Tensor) -> Tensor:
        setattr(self.layer, self.name, 1.5 * F.dropout(self.layer.raw, 0.3, self.training))
        out = self.layer(x)
        return out[0] if isinstance(out, tuple) else out


@torch.no_grad()
@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize(
    ("layer", "name", "free"),
    [(nn.Linear(6, 6), "weight", 12), (nn.GRU(6, 6), "weight_hh_l0", 0)],
    ids=["linear", "gru"],
)
def test_weight_drop(layer: nn.Module, name: str, free: int, ran: bool, assert_exact: Callable[..., ft.Plan]) -> None:
    """The parameter is used, whatever a run before the plan has left in its layer."""
    body = Dropped(copy.deepcopy(layer), name)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), body, nn.ReLU(), nn.Linear(6, 2)).eval(), torch.randn(5, 4)
    if ran:
        model(x)
    for mode in ("full", "weights"):
        plan = assert_exact(model, x, mode=mode, at_least=free)
        cob = plan.sample(0.9, "inter", exact=True, seed=0)
        network = plan.rewrite(cob)
        assert torch.equal(network(x), model(x))
        network.get_parameter("2.layer.raw").zero_()
        assert not torch.equal(network(x), model(x))
        if mode == "weights":
            assert torch.equal(plan.apply_(cob, copy.deepcopy(model))(x), model(x))


def test_a_setting_that_the_next_run_starts_with() -> None:
    """What a layer was called with, and is left otherwise, is state: no graph hands it on."""

    def steeper(m: Any, x: Tensor) -> Tensor:
        out = m.act(m.conv(x))
        m.act.negative_slope += 0.2
        return out

    model = ft.randomize(Changing(steeper).eval())
    with pytest.warns(ft.OpaqueModuleWarning, match="leaves a layer with another 'negative_slope'"):
        network = ft.plan(model, X).rewrite(ft.plan(model, X).sample(exact=True, seed=0))
    twin = copy.deepcopy(model)
    assert all(torch.equal(network(X), twin(X)) for _ in range(3))


def test_weights_that_forward_writes_by_their_data_stay_the_users() -> None:
    """Planning runs such a forward on copies."""

    def shrinks(m: Any, x: Tensor) -> Tensor:
        m.conv.weight.data = m.conv.weight.data * 0.5
        return m.conv(x) * (2 if int((x > 0).sum()) % 2 else 3)

    model = Changing(shrinks).eval()
    before = copy.deepcopy(model.state_dict())
    ft.plan(model, X)
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())


def doubled(layer: Any, x: Tensor) -> Tensor:
    return layer.old(2 * x)  # type: ignore[no-any-return]


def doubling(layer: Any) -> nn.Module:
    """A layer whose forward is replaced on the instance by one that calls it."""
    layer.old = layer.forward
    layer.forward = functools.partial(doubled, layer)
    return layer  # type: ignore[no-any-return]


def absolute(layer: Any) -> nn.Module:
    """A convolution, another method of which is replaced."""
    layer._conv_forward = lambda x, weight, bias: F.conv2d(x, weight.abs(), bias, padding=1)
    return layer  # type: ignore[no-any-return]


class Squared(nn.BatchNorm2d):
    """A batch norm with another weight, momentum and eps than its own."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.square()
        return F.batch_norm(x, self.running_mean, self.running_var, weight, self.bias, self.training, 0.3, 0.01)


@pytest.mark.parametrize(
    ("layer", "free"),
    [
        (lambda: doubling(nn.BatchNorm2d(6)), 12),
        (lambda: doubling(nn.ReLU()), 6),
        (lambda: absolute(nn.Conv2d(6, 6, 3)), 6),
        (lambda: Squared(6), 6),
    ],
    ids=["batch norm", "relu", "convolution", "another weight"],
)
def test_layers_that_are_not_what_their_class_is(
    layer: Callable[[], nn.Module], free: int, assert_exact: Callable[..., ft.Plan]
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), layer(), nn.ReLU(), nn.Conv2d(6, 2, 1)).eval()
    for mode in ("full", "weights"):
        exact_in_train_mode(model, assert_exact(model, X, mode=mode, at_least=0))
        plan = assert_exact(model, X, mode=mode, norm_stats="rescaled", at_least=free)
        assert torch.equal(plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))(OTHER), model(OTHER))
