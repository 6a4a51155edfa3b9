"""A norm takes one positive factor of its input into its epsilon: nothing is divided at run time."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.rewrite.own_epsilon import OwnEpsilon

X = torch.randn(6, 8, 5, generator=torch.Generator().manual_seed(1)).double()


class Rms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.01))


def standardised(x: Tensor) -> Tensor:
    var, mean = torch.var_mean(x, -1, keepdim=True)
    return (x - mean) / (0.01 + var.sqrt())


# name -> a norm of [6, 8, 5], and how many epsilons it has
NORMS: dict[str, tuple[Callable[[], Callable[[Tensor], Tensor]], int]] = {
    "LayerNorm": (lambda: nn.LayerNorm(5, eps=0.3), 1),
    "RMSNorm": (lambda: nn.RMSNorm(5, eps=0.3), 1),
    "GroupNorm": (lambda: nn.GroupNorm(2, 8, eps=0.3), 1),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(8, eps=0.3), 1),
    "layer_norm": (lambda: lambda x: F.layer_norm(x, (5,), None, None, 0.3), 1),
    "layer_norm with the default": (lambda: lambda x: F.layer_norm(x, (5,)), 1),
    "group_norm": (lambda: lambda x: F.group_norm(x, 4, eps=0.3), 1),
    "instance_norm": (lambda: lambda x: F.instance_norm(x, eps=0.3), 1),
    "normalize": (lambda: lambda x: F.normalize(x, dim=-1, eps=2.0), 1),
    "batch_norm of the batch": (lambda: lambda x: F.batch_norm(x, None, None, training=True, eps=0.3), 1),
    "by hand": (Rms, 1),
    "a deviation by hand": (lambda: standardised, 1),
    "clamped": (lambda: lambda x: x / x.norm(dim=-1, keepdim=True).clamp(min=0.01), 1),
    "without one": (lambda: lambda x: x / x.norm(dim=-1, keepdim=True), 0),
}


class Net(nn.Module):
    def __init__(self, norm: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 5), nn.Linear(5, 3)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)))


def made(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    return ft.randomize(Net(NORMS[name][0]()).to(dtype), seed).eval()


def with_factor(model: nn.Module, factor: float, x: Tensor = X) -> nn.Module:
    plan = ft.plan(model, x, checks=True)
    return plan.rewrite(plan.cob(torch.full((plan.num_free,), factor)))


def own(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, OwnEpsilon)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("factor", [0.125, 1024.0])
@pytest.mark.parametrize("name", NORMS)
def test_it_is_exact_without_a_division(name: str, factor: float, dtype: torch.dtype) -> None:
    """Every value, those inside a norm that is written by hand among them, is the original's times its CoB."""
    model, x = made(name, dtype), X.to(dtype)
    network = with_factor(model, factor, x)
    assert not [m for m in network.modules() if isinstance(m, ft.Rescale)]
    assert len(own(network)) == NORMS[name][1]
    report = ft.verify(model, network, x)
    assert report.passed
    assert report.bitwise_equal
    with torch.no_grad():
        assert torch.equal(network(x * 0.01), model(x * 0.01))  # where epsilon counts


@pytest.mark.parametrize("name", NORMS)
def test_any_positive_factor(name: str) -> None:
    model = made(name)
    network = with_factor(model, 1.7)
    assert not [m for m in network.modules() if isinstance(m, ft.Rescale)]
    assert ft.verify(model, network, X).passed


@pytest.mark.parametrize("factor", [-2.0, 2.0**40])
def test_what_is_divided_as_before(factor: float) -> None:
    """A sign is not forgotten, and a square of 2 ** 40 is too near a format's end."""
    model = made("LayerNorm")
    network = with_factor(model, factor)
    assert not own(network)
    assert ft.verify(model, network, X).bitwise_equal


def test_channels_of_their_own_are_divided() -> None:
    model = made("LayerNorm")
    plan = ft.plan(model, X)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
    assert not own(network)
    assert ft.verify(model, network, X).bitwise_equal


class Frozen(nn.Module):
    """Norms whose factor is not taken: running statistics, no epsilon that is a number, another root, two calls."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stem, self.head, self.kind = nn.Linear(5, 5), nn.Linear(5, 3), kind
        self.tracked = nn.InstanceNorm1d(8, track_running_stats=True)
        self.rms, self.layer = nn.RMSNorm(5), nn.LayerNorm(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.kind == "tracked":
            x = self.tracked(x)
        elif self.kind == "no number":
            x = self.rms(x)
        elif self.kind == "another root":
            x = F.normalize(x, p=3.0, dim=-1)
        else:
            x = self.layer(self.stem(self.layer(x)))
        return self.head(x)


@pytest.mark.parametrize("kind", ["tracked", "no number", "another root", "two calls"])
def test_norms_that_do_not_take_it(kind: str) -> None:
    model = ft.randomize(Frozen(kind).double(), 0).eval()
    network = with_factor(model, 4.0)
    assert not own(network)
    assert ft.verify(model, network, X).passed


@pytest.mark.parametrize("name", ["LayerNorm", "normalize", "by hand"])
def test_a_state_dict_tells_the_truth(name: str) -> None:
    """Between networks of one plan, divided or not, in other number formats, and not into the original class."""
    model = made(name)
    network = with_factor(model, 4.0)
    (key,) = network.state_dict().keys() - model.state_dict().keys()
    assert key.endswith(".tau")
    with pytest.raises(RuntimeError, match=r"Unexpected key"):
        made(name, seed=3).load_state_dict(network.state_dict())
    plan = ft.plan(made(name, seed=3), X)
    for other in (
        plan.rewrite(plan.identity()),
        plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1)),
        plan.rewrite(plan.cob(torch.full((plan.num_free,), 0.25))),
    ):
        before = copy.deepcopy(other.state_dict())
        other.load_state_dict(network.state_dict())
        assert torch.equal(other(X), model(X))
        assert other.state_dict().keys() == network.state_dict().keys()
        other.load_state_dict(before)
        assert torch.equal(other(X), made(name, seed=3)(X))


def test_copies_and_casts() -> None:
    model = made("LayerNorm")
    network = with_factor(model, 4.0)
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(network), torch.load(buffer, weights_only=False)):
        assert torch.equal(twin(X), model(X))
    low = copy.deepcopy(network).bfloat16()
    assert torch.equal(low(X.bfloat16()), copy.deepcopy(model).bfloat16()(X.bfloat16()))
    exported = torch.export.export(network, (X,)).module()
    assert torch.equal(exported(X), model(X))


def test_in_training() -> None:
    """Theorem 5.1 through an epsilon: the teleported gradients are the original's over their factors."""
    model = made("by hand")
    plan = ft.plan(model, X)
    cob = plan.cob(torch.full((plan.num_free,), 4.0))
    network = plan.rewrite(cob)
    for net in (model, network):
        net.train()
        net(X).square().sum().backward()
    scales, theirs = plan.scales(cob), dict(network.named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(theirs[name].grad * scales.get(name, torch.ones(())), p.grad, rtol=1e-12, atol=1e-12)


def test_walking_on() -> None:
    """A network that is teleported in place, by a common factor and by others, keeps its function and comes back."""
    model = made("LayerNorm")
    expected = model(X)
    walker = ft.Teleportable(model, X)
    for values in (torch.full((walker.plan.num_free,), 4.0), 2.0 ** torch.arange(walker.plan.num_free).remainder(3)):
        walker.teleport_(walker.plan.cob(values))
        assert torch.equal(walker(X), expected)
