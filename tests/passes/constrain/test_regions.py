"""Regions: norms and activations that are written by hand are as free as torch's own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.constrain.dependence import Dependence, parameters_of
from fxteleport.passes.constrain.regions import regions
from fxteleport.passes.graph.ops import name_of

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "GPT-2": lambda x: 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0)))),
    "GPT-J": lambda x: 0.5 * x * (1.0 + torch.tanh(0.79788 * x * (1.0 + 0.044715 * x * x))),
    "BLOOM": lambda x: x * 0.5 * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))),
    "a constant tensor": lambda x: x * (1.0 + torch.tanh(torch.sqrt(torch.tensor(0.63)) * (x + 0.04 * x**3))),
    "erf": lambda x: x * 0.5 * (1.0 + torch.erf(x / 1.4142135)),
    "hard swish": lambda x: x * F.relu6(x + 3) / 6,
    "mish": lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))),
    "a polynomial": lambda x: x + x**2 - 0.3 * x.pow(3),
    "in float64": lambda x: (x.double() + x.double() ** 3).to(x.dtype),
    "SiLU": lambda x: x / (1 + torch.exp(-x)),
    "modules": lambda x: nn.Tanh()(x) + x.pow(2),
    "a rational function": lambda x: (x + x * x) / (2 + x * x),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str, check_operation: Callable[..., None]) -> None:
    check_operation(ACTIVATIONS[name], full=8)


NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "Llama": lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6),
    "T5": lambda x: x * torch.rsqrt(x.to(torch.float32).pow(2).mean(1, keepdim=True) + 1e-6),
    "a cast and back": lambda x: (y := x.double()).mul(torch.rsqrt(y.square().mean(1, True) + 1e-6)).to(x.dtype),
    "divided": lambda x: x / (x.pow(2).mean(dim=1, keepdim=True) + 1e-6).sqrt(),
    "in place": lambda x: x / torch.sqrt((x * x).sum(1, keepdim=True) / 8 + 1e-6),
    "a length": lambda x: x / (x.norm(2, dim=1, keepdim=True) * 8**-0.5 + 1e-8),
    "without eps": lambda x: x / x.norm(dim=1, keepdim=True),
    "clamped": lambda x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=1e-6),
    "LayerNorm": lambda x: (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-6),
    "LayerNorm2d": lambda x: (
        (u := x - x.mean(1, keepdim=True)) / torch.sqrt(u.pow(2).mean(1, keepdim=True) + 1e-6)
    ),
    "a deviation": lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-6),
    "all positions": lambda x: (x - x.mean()) / (x.std() + 1e-5),
    "a new axis": lambda x: x / (x.pow(2).mean(1) + 1e-6).sqrt().unsqueeze(1),
    "the largest": lambda x: x / x.abs().amax(1, keepdim=True),
    "both at once": lambda x: (x - (vm := torch.var_mean(x, 1, keepdim=True))[1]) * torch.rsqrt(vm[0] + 1e-6),
    "an index": lambda x: (x - x.mean(1)[:, None]) / (x.std(1)[:, None] + 1e-6),
    "expanded": lambda x: x / (x.pow(2).mean(1, keepdim=True).expand_as(x) + 1e-6).sqrt(),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
def test_norms(name: str, check_operation: Callable[..., None]) -> None:
    """Nothing goes out, as there is no gain: what enters is free."""
    check_operation(NORMS[name], full=8, weights=None)


class Rms(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        y = x.to(torch.float32)
        return self.weight * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class Gemma(Rms):
    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (y * (1.0 + self.weight.float())).type_as(x)


class Stream(nn.Module):
    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.embed, self.norm1, self.up, self.down = nn.Linear(8, 6), norm(6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm2, self.head = norm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.down(torch.relu(self.up(self.norm1(x))))
        return self.head(self.norm2(x))


@pytest.mark.parametrize("norm", [Rms, Gemma, nn.RMSNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_residual_stream(
    norm: Callable[[int], nn.Module], dtype: torch.dtype, assert_exact: Callable[..., ft.Plan]
) -> None:
    model, x = Stream(norm).to(dtype), torch.randn(2, 5, 8).to(dtype)
    plan = assert_exact(model, x)
    assert plan.num_free == 24
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
    for other in (torch.randn(3, 5, 8).to(dtype), torch.randn(1, 7, 8).to(dtype)):
        assert torch.equal(network(other), model(other))


class Plain(Rms):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


def test_gradients_are_the_originals_over_the_cob() -> None:
    model, x = ft.randomize(Stream(Plain).double()), torch.randn(2, 8).double()
    plan = ft.plan(model, x)
    cob = plan.sample(0.9, "inter", seed=0)
    network, scales = plan.rewrite(cob).train(), plan.scales(cob)
    for part in (model.train(), network):
        (part(x) * torch.arange(6.0).view(2, 3)).sum().backward()
    for name, parameter in model.named_parameters():
        expected = parameter.grad / scales.get(name, 1)
        assert torch.allclose(network.get_parameter(name).grad, expected, rtol=1e-9, atol=1e-12), name


def test_a_part_that_is_seen_is_no_region(assert_exact: Callable[..., ft.Plan]) -> None:
    """The statistics go elsewhere, too: the rules of the operations hold."""

    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.stem(x)
            scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
            return self.head(x * scale), scale

    assert_exact(Seen(), torch.randn(2, 3), at_least=0)


def test_gradients_recorded_in_a_part(assert_exact: Callable[..., ft.Plan]) -> None:
    class Stopped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            with torch.no_grad():
                scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
            return self.head(x * scale)

    model, x = Stopped(), torch.randn(2, 3)
    plan = assert_exact(model, x, at_least=0)
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    network, scales = plan.rewrite(cob), plan.scales(cob)
    for part in (model, network):
        part(x).sum().backward()
    expected = model.stem.weight.grad / scales["stem.weight"]
    assert torch.allclose(network.get_parameter("stem.weight").grad.double(), expected.double())


def test_what_is_written_to_is_no_region(check_operation: Callable[..., None]) -> None:
    def written(x: Tensor) -> Tensor:
        y = x * 1
        z = y.pow(3)
        y.mul_(2)
        return y + z

    check_operation(written, full=None)


def test_a_pole_keeps_the_sign_of_its_zero() -> None:
    model = nn.Sequential(nn.Linear(3, 6), Sum())
    plan = ft.plan(model, torch.randn(2, 3))
    assert not (plan.sample(0.9, "inter", seed=0).values < 0).any()
    assert plan.num_free == 6


class Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.sum(-1, keepdim=True)


def test_a_network_takes_over_the_regions_of_another() -> None:
    model, x = ft.randomize(Stream(Rms)), torch.randn(2, 8)
    plan = ft.plan(model, x)
    moved = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    cob = plan.sample(0.9, "inter", exact=True, seed=1)
    still = plan.rewrite(cob @ cob.inverse())
    still.load_state_dict(moved.state_dict())
    assert torch.equal(still(x), model(x))
    assert torch.equal(copy.deepcopy(moved)(x), model(x))


def test_a_region_in_a_module_that_asks_for_its_mode(assert_exact: Callable[..., ft.Plan]) -> None:
    class Dropping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x + x**3, 0.5, self.training)

    plan = assert_exact(nn.Sequential(nn.Linear(3, 6), Dropping(), nn.Linear(6, 2)), torch.randn(2, 3))
    assert plan.num_free == 6


def test_each_node_is_in_one_region() -> None:
    model = nn.Sequential(nn.Linear(3, 6), Rms(6), nn.Linear(6, 2))
    plan = ft.plan(model, torch.randn(2, 3))
    found = regions(plan.captured.graph, plan.captured.modules, Dependence(parameters_of(plan.captured)))
    (region,) = set(found.values())
    assert region.is_norm
    assert [name_of(node.target) for node in plan.captured.graph.nodes if node in region.inside] == [
        "pow", "mean", "add", "rsqrt", "mul",
    ]  # fmt: skip
