"""Train mode: an emitted network does in it what the model does, or refuses."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

import fxteleport as ft


def vectors() -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def total(out: Any) -> Tensor:
    """A loss of everything that a network returns, each element with a weight of its own."""
    if isinstance(out, Tensor):
        weights = torch.linspace(0.3, 1.7, out.numel(), dtype=out.dtype).view(out.shape)
        return (out * weights).sum() + 0.1 * out.square().sum()
    values = out.values() if isinstance(out, dict) else out
    return torch.stack([total(x) for x in values if isinstance(x, Tensor) and x.is_floating_point()]).sum()


def step(network: nn.Module, x: Tensor, seed: int) -> Tensor:
    network.zero_grad()
    torch.manual_seed(seed)
    loss = total(network(x))
    loss.backward()
    return loss.detach()


def assert_trains_alike(model: nn.Module, network: nn.Module, scales: dict[str, Tensor], x: Tensor) -> None:
    """The loss, the gradients (Theorem 5.1: dL/dW' = dL/dW / scale) and the buffers of two runs."""
    for seed in (1, 2):
        assert torch.allclose(step(model, x, seed), step(network, x, seed), rtol=1e-9)
        found = dict(network.named_parameters())
        for name, parameter in model.named_parameters():
            expected, grad = parameter.grad, found[name].grad
            if expected is None or grad is None:
                assert expected is None or not expected.any(), name
                assert grad is None or not grad.any(), name
            else:
                expected = expected / scales.get(name, torch.ones(()))
                assert torch.allclose(grad, expected, rtol=1e-7, atol=1e-11), name
        buffers = dict(network.named_buffers())
        for name, buffer in model.named_buffers():
            assert torch.allclose(buffers[name].double(), buffer.double() * scales.get(name, 1.0), rtol=1e-8), name


def teleported(make: Callable[[], nn.Module], x: Tensor, mode: str, **settings: Any) -> tuple[nn.Module, Any, Any, Any]:
    """A model in eval mode, its plan, an emitted network and the scales; equal in eval mode to the last bit."""
    torch.manual_seed(0)
    model = ft.randomize(make().double()).eval()
    plan = ft.plan(model, x, mode=mode, **settings)
    exact = plan.rewrite(plan.sample(exact=True, landscape="inter", seed=0))
    assert ft.verify(model, exact, x).bitwise_equal
    cob = plan.sample(0.9, "inter", seed=1)
    return model, plan, plan.rewrite(cob), plan.scales(cob)


# -- forwards that ask for their mode ----------------------------------------------------------------------------------


class Detector(nn.Module):
    """As YOLO's head: raw predictions in train mode, decoded ones in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.heads = nn.ModuleList(nn.Conv2d(6, 5, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        h = F.relu(self.norm(self.stem(x)))
        raw = [head(h).flatten(2) for head in self.heads]
        if self.training:
            return raw
        xy, rest = torch.cat(raw, 2).split([2, 3], 1)
        return torch.cat([xy.sigmoid() * 8, rest.sigmoid()], 1)


class Auxiliary(nn.Module):
    """As Inception and GoogLeNet: one more classifier in train mode, which eval mode never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 7, 3), nn.Linear(7, 4)
        self.aux = nn.Sequential(nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 4))

    def forward(self, x: Tensor) -> Any:
        h = F.relu(self.a(x))
        aux = self.aux(h) if self.training else None
        out = self.head(F.gelu(self.b(h)).mean((2, 3)))
        return (out, aux) if self.training else out


class Depth(nn.Module):
    """Stochastic depth by hand, in a method."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 3)

    def drop(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * torch.rand(len(x), 1, dtype=x.dtype, device=x.device).add(0.5).floor() * 2

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(h + self.drop(torch.tanh(self.block(h))))


class Dropping(nn.Module):
    """`F.dropout`, in place and not, by the mode, and by a mode of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        F.dropout(h, 0.5, self.training, inplace=True)
        h = F.dropout(torch.relu(self.b(h)), 0.3, training=self.training)
        return self.c(F.dropout(h, 0.5, training=False))


class NeverDropping(nn.Module):
    """`F.dropout` with another mode than the network's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(torch.relu(self.a(x)), 0.5, False))


class AlwaysDropping(NeverDropping):
    """Monte Carlo dropout."""

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(torch.relu(self.a(x)), 0.5))


class Attending(nn.Module):
    """Attention whose rate of dropout is given by hand."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.qkv, self.o, self.drop = nn.Linear(6, 12), nn.Linear(4, 3), nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.view(2, 1, 4, 6)).chunk(3, -1)
        return self.o(F.scaled_dot_product_attention(q, k, v, dropout_p=self.drop.p if self.training else 0.0))


class ByHand(nn.Module):
    """A batch norm of functions, whose statistics are buffers of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("var", torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        h = F.batch_norm(self.a(x), self.mean, self.var, training=self.training)
        return self.c(torch.relu(self.b(h)))


class Noisy(nn.BatchNorm1d):
    """A batch norm that adds noise in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x + torch.randn_like(x) if self.training else x


class Plainly(nn.BatchNorm1d):
    """A batch norm that spells out what torch's does."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.track_running_stats:
            self.num_batches_tracked.add_(1)
        running = (self.running_mean, self.running_var)
        return F.batch_norm(x, *running, self.weight, self.bias, self.training, self.momentum, self.eps).relu()


class Frozen(nn.BatchNorm1d):
    """A batch norm that never leaves its running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, eps=self.eps)


class Batch(nn.BatchNorm1d):
    """A batch norm that always takes the batch's statistics."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True, eps=self.eps)


def normed(norm: type[nn.BatchNorm1d]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(6, 7), norm(7), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))


class Recording(nn.Module):
    """Asks whether gradients are recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(torch.relu(h) if torch.is_grad_enabled() else F.leaky_relu(h))


class Settings(nn.Module):
    """A flag that goes with the mode and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 3)
        self.checkpointing, self.slope = False, 0.1

    def forward(self, x: Tensor) -> Tensor:
        if self.checkpointing and self.training:
            raise NotImplementedError
        return self.b(F.leaky_relu(self.a(x), 0.1 if self.training and not self.checkpointing else self.slope))


ASKING: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "detector": (Detector, images),
    "auxiliary head": (Auxiliary, images),
    "stochastic depth in a method": (Depth, vectors),
    "functional dropout": (Dropping, vectors),
    "dropout that never drops": (NeverDropping, vectors),
    "attention's dropout": (Attending, vectors),
    "batch norm of functions": (ByHand, vectors),
    "batch norm with noise": (normed(Noisy), vectors),
    "batch norm spelt out": (normed(Plainly), vectors),
    "batch norm that is frozen": (normed(Frozen), vectors),
    "batch norm of the batch": (normed(Batch), vectors),
    "gradients": (Recording, vectors),
    "a flag": (Settings, vectors),
}


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", ASKING)
def test_train_mode(name: str, mode: str) -> None:
    make, inputs = ASKING[name]
    x = inputs()
    model, plan, network, scales = teleported(make, x, mode)
    assert plan.num_free, plan.opaque
    assert not plan.captured.opaque
    for copied in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert_trains_alike(copy.deepcopy(model).train(), copied.train(), scales, x)
        copied.eval()
        with torch.no_grad():
            assert torch.allclose(total(copied(x)), total(copy.deepcopy(network).eval()(x)))
    if mode == "weights":  # the class itself has no guard: the plan's constraints are those of both modes
        moved = plan.apply_(plan.sample(0.9, "inter", seed=1), copy.deepcopy(model))
        assert_trains_alike(copy.deepcopy(model).train(), moved.train(), scales, x)


# -- modes that the model sets itself ----------------------------------------------------------------------------------


class Setting(nn.Module):
    """Its forward sets the mode of a part, whatever `train()` said."""

    def __init__(self, part: str, mode: bool) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.c = nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Linear(7, 5), nn.Linear(5, 3)
        self.inner = nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Dropout(0.5))
        self.part, self.mode = part, mode

    def forward(self, x: Tensor) -> Tensor:
        self.get_submodule(self.part).train(self.mode)
        h = self.norm(self.a(x)) + self.inner(x)
        return self.c(torch.relu(self.b(h)))


class Restoring(nn.Module):
    """Takes its teacher's answer in eval mode, and puts it back."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(0.5))
        self.a, self.b, self.c = nn.Linear(6, 7), nn.Linear(7, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        was = self.teacher.training
        self.teacher.eval()
        with torch.no_grad():
            target = self.teacher(x)
        self.teacher.train(was)
        return self.c(torch.relu(self.b(torch.relu(self.a(x)) + target)))


class Backbone(nn.Module):
    """Its `train` leaves its norms in eval mode, and freezes its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Linear(7, 6)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        self.norm.eval()
        if mode:
            self.first.requires_grad_(False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(torch.relu(self.norm(self.first(x))))
        return F.dropout(h, 0.5, self.training)


class Always(nn.Module):
    """Its `train` keeps its dropout active."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(6, 7), nn.Dropout(0.5), nn.Linear(7, 6)

    def train(self, mode: bool = True) -> Always:
        super().train(mode)
        self.drop.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.drop(torch.relu(self.a(x))))


class Resetting(nn.Module):
    """Its `train` keeps a layer in eval mode of which its forward changes the settings or the weight."""

    def __init__(self, layer: Callable[[], nn.Module], way: str) -> None:
        super().__init__()
        self.a, self.layer, self.b, self.way = nn.Linear(6, 7), layer(), nn.Linear(7, 6), way

    def train(self, mode: bool = True) -> Resetting:
        super().train(mode)
        self.layer.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        if self.way == "weight":
            return self.b(torch.func.functional_call(self.layer, {"weight": self.layer.weight * 2}, (h,)))
        setattr(self.layer, self.way, 0.25)
        return self.b(self.layer(h))


class Never(nn.BatchNorm1d):
    """A batch norm that stays in eval mode."""

    def train(self, mode: bool = True) -> Never:
        return super().train(False)


class Idle(nn.Module):
    """The numbers that an unused dropout draws are those that the next one does not get."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(6, 7), nn.Dropout(0.5), nn.Linear(7, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        self.drop(h)
        F.dropout(h, 0.5, self.training)
        return self.b(self.drop(h))


class Louder(nn.Module):
    """Its `train` sets numbers that forward reads, here and in a layer, and what it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Linear(6, 7), nn.LeakyReLU(0.1), nn.Linear(7, 6)
        self.factor, self.layers, self.log = 1.0, [self.a], 0

    def train(self, mode: bool = True) -> Louder:
        super().train(mode)
        self.factor, self.act.negative_slope, self.log = (2.0, 0.3, 1) if mode else (1.0, 0.1, 2)
        self.layers = [self.a, self.act] if mode else [self.a]
        self.forward = self.forward_train if mode else self.forward_eval
        return self

    def forward_eval(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.b(self.act(x)) * self.factor

    def forward_train(self, x: Tensor) -> Tensor:
        return torch.tanh(self.forward_eval(x))

    forward = forward_eval


class Untraced(Louder):
    """So does it, and it cannot be traced."""

    def forward_eval(self, x: Tensor) -> Tensor:
        x = super().forward_eval(x)
        return x * 2 if int((x > 0).sum()) % 2 else F.dropout(x, 0.5, self.training)

    forward = forward_eval


def with_head(backbone: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(backbone(), nn.Linear(6, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))


SETTING: dict[str, Callable[[], nn.Module]] = {
    "a norm in eval mode": lambda: Setting("norm", False),
    "a norm in train mode": lambda: Setting("norm", True),
    "a part in eval mode": lambda: Setting("inner", False),
    "a part in train mode": lambda: Setting("inner", True),
    "the whole in eval mode": lambda: Setting("", False),
    "restored": Restoring,
    "a frozen model": Backbone,
    "a frozen backbone": with_head(Backbone),
    "always random": with_head(Always),
    "another eps": lambda: Resetting(lambda: nn.BatchNorm1d(7), "eps"),
    "another weight": lambda: Resetting(lambda: nn.BatchNorm1d(7), "weight"),
    "another share": lambda: Resetting(lambda: nn.Dropout(0.5), "p"),
    "another eps inside": with_head(lambda: Resetting(lambda: nn.BatchNorm1d(7), "eps")),
    "another eps of its own": with_head(lambda: Resetting(lambda: Never(7), "eps")),
    "an unused dropout": Idle,
    "louder": Louder,
    "a louder backbone": with_head(Louder),
}


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", SETTING)
def test_modes_that_the_model_sets(name: str, mode: str) -> None:
    x = vectors()
    torch.manual_seed(0)
    model = ft.randomize(SETTING[name]().double()).eval()
    plan = ft.plan(model, x, mode=mode)
    assert plan.num_free, plan.opaque
    cob = plan.sample(0.9, "inter", seed=1)
    network, scales = plan.rewrite(cob), plan.scales(cob)
    for copied in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        twin = copy.deepcopy(model)
        for training in (False, True, False, True):
            assert_trains_alike(twin.train(training), copied.train(training), scales, x)


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
def test_the_mode_of_a_model_that_is_kept_whole() -> None:
    model, x = ft.randomize(Untraced().double()).eval(), vectors()
    network = ft.teleport(model, x, seed=0)
    for copied in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        twin = copy.deepcopy(model)
        for training in (False, True, False):
            assert_trains_alike(twin.train(training), copied.train(training), {}, x)
        for module in (*copied.modules(), *twin.modules()):  # as `verify` puts modes back
            module.training = True
        assert_trains_alike(twin, copied, {}, x)


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
def test_a_part_that_is_kept_whole_and_set_by_train() -> None:
    """Nothing tells what it does in train mode: there, it is refused."""
    model, x = ft.randomize(with_head(Untraced)().double()).eval(), vectors()
    network = ft.teleport(model, x, seed=0)
    assert torch.allclose(network(x), model(x))
    with pytest.raises(ft.InputError, match="mode"):
        network.train()(x)


class Merging(nn.Linear):
    """Merges a low-rank update into its weight in eval mode."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.down, self.up = nn.Parameter(torch.randn(2, width)), nn.Parameter(torch.randn(width, 2))
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode is self.merged:
            self.weight.data += (-1 if mode else 1) * (self.up @ self.down)
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if self.merged else out + x @ self.down.T @ self.up.T


def test_a_train_that_changes_weights() -> None:
    model, x = ft.randomize(nn.Sequential(Merging(6), nn.ReLU(), nn.Linear(6, 3)).double()), vectors()
    with pytest.raises(ft.CaptureError, match="eval"):
        ft.plan(model, x)
    model.eval()
    plan = ft.plan(model, x)
    network = plan.rewrite(plan.sample(seed=0))
    assert plan.num_free == 6
    assert torch.allclose(network(x), model(x))
    with pytest.raises(ft.InputError, match="mode"):
        network.train()(x)


@pytest.mark.parametrize("trained", [True, False])
def test_whether_a_parameter_is_trained(trained: bool) -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 3)
            self.b.weight.requires_grad_(trained)
            self.register_buffer("table", torch.ones(7))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.a(x))
            h = h * 2 if self.b.weight.requires_grad else h * 3
            return self.b(h + 1 if self.table.requires_grad else h)

    model, plan, network, scales = teleported(Asks, vectors(), "full")
    assert plan.num_free == 7
    assert_trains_alike(copy.deepcopy(model).train(), copy.deepcopy(network).train(), scales, vectors())
    network.b.weight.requires_grad_(not trained)
    with pytest.raises(ft.GuardError, match="gradient"):
        network(vectors())
    again = ft.plan(model, vectors(), mode="weights")
    again.apply_(again.identity())
    model.b.weight.requires_grad_(not trained)
    with pytest.raises(ft.ModelError, match="gradient"):
        plan.rewrite(plan.identity())
    with pytest.raises(ft.ModelError, match="gradient"):
        again.apply_(again.identity())


def test_a_mode_that_the_next_run_finds_changed() -> None:
    """The first run in train mode takes the batch's statistics, the second does not."""

    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.norm(self.a(x))
            self.norm.eval()
            return self.b(h)

    network = ft.teleport(Once().eval(), vectors().float(), seed=0).train()
    with pytest.raises(ft.InputError, match="mode"):
        network(vectors().float())


# -- spectral norm, whose power iteration runs in train mode -----------------------------------------------------------


class Spectral(nn.Module):
    """Both spellings, inside a block."""

    def __init__(self, normed: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.a, self.b = normed(nn.Conv2d(3, 6, 3, padding=1)), normed(nn.Conv2d(6, 7, 1))
        self.block = nn.Sequential(nn.ReLU(), normed(nn.Conv2d(7, 7, 1)), nn.ReLU())
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(torch.relu(self.a(x)))
        return self.head((h + self.block(h)).mean((2, 3)))


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("normed", [spectral_norm, parametrizations.spectral_norm], ids=["hook", "parametrization"])
def test_spectral_norm(normed: Callable[[nn.Module], nn.Module], mode: str) -> None:
    x = images()
    model, plan, network, scales = teleported(lambda: Spectral(normed), x, mode)
    assert plan.num_free
    twin = copy.deepcopy(model).train()
    assert_trains_alike(twin, network.train(), scales, x)
    assert any(not torch.equal(b, dict(model.named_buffers())[n]) for n, b in twin.named_buffers())
    assert_trains_alike(twin.eval(), network.eval(), scales, x)
    if mode == "weights":
        moved = plan.apply_(plan.sample(0.9, "inter", seed=1), copy.deepcopy(model))
        assert_trains_alike(copy.deepcopy(model).train(), moved.train(), scales, x)


# -- gradients that are not those of the forward -----------------------------------------------------------------------


class Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad.clamp(-0.01, 0.01)


class Spike(torch.autograd.Function):
    """A spike whose surrogate gradient is that of a fast sigmoid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return grad / (ctx.slope * x.abs() + 1) ** 2, None


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        ctx.rate = rate
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return -ctx.rate * grad, None


class Gated(torch.autograd.Function):
    """A product, whose backward clips what it gives to one factor."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        a, b = ctx.saved_tensors
        return grad * b, (grad * a).clamp(-0.01, 0.01)


class Applying(nn.Module):
    def __init__(self, apply: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c, self.apply_ = nn.Linear(6, 7), nn.Linear(6, 7), nn.Linear(7, 3), apply

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.apply_(self, x))


def clipped(gradient: Tensor) -> Tensor:
    return gradient.clamp(-0.01, 0.01)


def clip_(parameter: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.clamp_(-0.01, 0.01)


def with_hook(add: Callable[[Any], Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = Applying(lambda m, x: torch.relu(m.a(x)) + torch.relu(m.b(x)))
        add(model)
        return model

    return make


GRADIENTS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {  # free values in full, in weights
    "a clipped gradient": (lambda: Applying(lambda m, x: torch.relu(Clip.apply(m.a(x)))), 7, 0),
    "a spike": (lambda: Applying(lambda m, x: Spike.apply(m.a(x), 25.0)), 7, 0),
    "a reversed gradient": (lambda: Applying(lambda m, x: Reversal.apply(m.a(x), 0.3)), 7, 7),
    "a product": (lambda: Applying(lambda m, x: Gated.apply(m.a(x), m.b(x))), 14, 14),  # signs alone of the second
    "a hook of a layer": (
        with_hook(lambda m: m.a.register_full_backward_hook(lambda _, g, __: (clipped(g[0]),))),
        0,
        0,
    ),
    "a hook of a parameter": (with_hook(lambda m: m.a.weight.register_hook(clipped)), 0, 0),
    "a hook after a gradient": (with_hook(lambda m: m.a.weight.register_post_accumulate_grad_hook(clip_)), 0, 0),
}


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_that_are_not_of_the_forward(name: str, mode: str) -> None:
    make, *free = GRADIENTS[name]
    x = vectors().requires_grad_()
    model, plan, network, scales = teleported(make, x, mode)
    assert plan.num_free == free[mode == "weights"], plan.opaque
    assert_trains_alike(model.train(), network.train(), scales, x)


def test_a_hook_of_a_part_keeps_it_whole() -> None:
    x = vectors().requires_grad_()

    def make() -> nn.Module:
        part = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 6))
        part.register_full_backward_hook(lambda _, grads, __: (clipped(grads[0]),))
        return nn.Sequential(nn.Linear(6, 6), part, nn.Linear(6, 5), nn.Linear(5, 3))

    with pytest.warns(ft.OpaqueModuleWarning, match="backward hooks"):
        model, plan, network, scales = teleported(make, x, "full")
    assert plan.num_free
    assert_trains_alike(model.train(), network.train(), scales, x)


def test_a_hook_of_a_tensor_is_run_in_training() -> None:
    def apply(m: Any, x: Tensor) -> Tensor:
        h = torch.relu(m.a(x))
        if h.requires_grad:
            h.register_hook(clipped)
        return h

    model = Applying(apply).double().eval()
    plan = ft.plan(model, vectors())
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    network, scales = plan.rewrite(cob), plan.scales(cob)
    with torch.no_grad():
        assert torch.equal(network(vectors()), model(vectors()))
    for part in (model, network):
        part(vectors()).pow(2).sum().backward()
    for name in ("a.weight", "c.weight"):
        expected = model.get_parameter(name).grad / scales.get(name, torch.ones(()))
        assert torch.equal(network.get_parameter(name).grad, expected), name
    assert 0 < model.a.bias.grad.abs().max() <= 0.01 * len(vectors())


# -- refusals ----------------------------------------------------------------------------------------------------------


class Targets(nn.Module):
    """Runs in train mode with targets only."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.head = Backbone(), nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        out = self.head(self.part(x))
        if self.training:
            if y is None:
                raise ValueError("targets are needed in train mode")
            return F.mse_loss(out, y)
        return out


def test_train_mode_that_has_no_graph_is_refused() -> None:
    plan = ft.plan(Targets().double().eval(), vectors())
    assert any("targets are needed" in what for what in plan.specialized)
    network = plan.rewrite(plan.sample(seed=0))
    with pytest.raises(ft.InputError, match=r"train mode.*targets are needed"):
        network.train()(vectors())
    network.eval()(vectors())


def test_modes_that_were_not_captured_are_refused() -> None:
    """One part that asks for its mode is frozen by hand, another is not."""
    model = nn.Sequential(Depth(), nn.Linear(3, 6), Depth()).double().eval()
    network = ft.teleport(model, vectors(), seed=0).train()
    network(vectors())
    network.get_submodule("0").eval()
    with pytest.raises(ft.InputError, match="other modules"):
        network(vectors())


# -- in place ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_teleportable_keeps_modes_and_unsaved_buffers(mode: str) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.GELU(), nn.Linear(7, 3))
            self.register_buffer("runs", torch.zeros(1, dtype=torch.float64), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            self.runs.add_(1)
            return self.net(x) * self.runs

    torch.manual_seed(0)
    model = Counting().double()
    live = ft.Teleportable(copy.deepcopy(model).eval(), vectors(), mode=mode)
    for network in (model, live.network):
        network.train()
        network.net[1].eval()
    assert torch.allclose(model(vectors()), live(vectors()))
    for seed in range(3):
        live.teleport_(live.plan.sample(0.9, "inter", seed=seed))
        assert torch.allclose(model(vectors()), live(vectors()))
        assert live.network.training and not live.network.get_submodule("net.1").training


class Fitted(nn.Module):
    """A facade whose `train` fits it to data: no plan may begin that."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        self.fitted: list[Any] = []

    def train(self, trainer: Any = None, **settings: Any) -> Any:  # type: ignore[override]
        self.fitted.append(trainer)
        raise AssertionError("it begins to fit")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("inside", [False, True])
def test_a_train_that_is_no_mode_is_not_called(inside: bool) -> None:
    facade = Fitted()
    facade.training = facade.net.training = False
    model: nn.Module = nn.Sequential(facade) if inside else facade
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    plan = ft.plan(ft.randomize(model), x)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert ft.verify(model, network, x).passed
    assert (plan.num_free, facade.fitted) == (6, [])


class Called(nn.Module):
    """A facade without a forward: its `__call__` makes more of what it is given than a network does."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(4, 3)

    def __call__(self, x: Tensor) -> list[Any]:
        return [self.network(x).argmax().item()]


def test_a_facade_without_a_forward_says_what_to_plan() -> None:
    with pytest.raises(ft.ModelError, match=r"Called has no forward: plan the network .*'network'"):
        ft.plan(Called(), torch.randn(2, 4))


class Freezing(nn.Module):
    """A forward that decides which parameters are trained, or asks where a gradient comes from."""

    def __init__(self, does: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.does = nn.Linear(4, 6), nn.Linear(6, 3), does

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.does(self.a, x).relu())
        return out


def frozen_for_a_call(layer: nn.Module, x: Tensor) -> Tensor:
    layer.requires_grad_(False)
    out: Tensor = layer(x)
    layer.requires_grad_(True)
    return out


def doubled_without_history(layer: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = layer(x)
    return out * 2 if out.grad_fn is None else out


def doubled_leaf(layer: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = layer(x)
    return out * 2 if out.is_leaf else out


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("does", [frozen_for_a_call, doubled_without_history, doubled_leaf], ids=lambda f: f.__name__)
def test_a_forward_that_asks_what_is_trained_or_decides_it(does: Any, mode: str) -> None:
    model, x = ft.randomize(Freezing(does).eval()), torch.randn(2, 4)
    plan = ft.plan(model, x, mode=mode)
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    network = plan.rewrite(cob)
    with torch.no_grad():
        assert torch.equal(network(x), model(x))
    model.train()
    try:
        out = network.train()(x)
    except ft.InputError:
        return
    assert torch.equal(out, model(x))
    out.sum().backward()
    model(x).sum().backward()
    theirs = dict(network.named_parameters())
    for name, p in model.named_parameters():
        assert (p.grad is None) is (theirs[name].grad is None), name
