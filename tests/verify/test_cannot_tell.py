"""Where the original's own rounding says nothing, float64 decides; where that cannot, the verdict is a failure."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.verify.compare import largest_tolerance


class Deep(nn.Module):
    """Layers that each enlarge what rounding does: after some of them in bfloat16, nothing else is left."""

    def __init__(self, layers: int, wide: int = 32, gain: float = 3) -> None:
        super().__init__()
        self.gain = gain
        self.first, self.last = nn.Linear(wide, wide), nn.Linear(wide, 6)
        self.layers = nn.ModuleList(nn.Linear(wide, wide) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = F.layer_norm(torch.sin(self.gain * layer(x)), x.shape[-1:])
        return self.last(x)


class Residual(nn.Module):
    """An ordinary stack in bfloat16: of twelve layers, each one makes little of the output."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(32, 32) for _ in range(12))
        self.down = nn.ModuleList(nn.Linear(32, 32) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        for up, down in zip(self.up, self.down, strict=True):
            x = x + 0.5 * down(torch.relu(up(x)))
        return x


def inputs(dtype: torch.dtype) -> Tensor:
    return torch.randn(8, 32, generator=torch.Generator().manual_seed(0)).to(dtype)


CASES = [
    (lambda: Deep(10), torch.bfloat16, "layers.5.weight"),
    (lambda: Deep(10), torch.float16, "layers.5.weight"),
    (Residual, torch.bfloat16, "down.11.weight"),
]


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("build, dtype, name", CASES, ids=["bfloat16", "float16", "residual"])
def test_float64_decides(build: type[nn.Module], dtype: torch.dtype, name: str, mode: str) -> None:
    torch.manual_seed(0)
    model, x = ft.randomize(build().to(dtype).eval()), inputs(dtype)
    plan = ft.plan(model, x, mode=mode)
    network = plan.rewrite(plan.sample(0.9, "inter", seed=0))
    report = ft.verify(model, network, x)
    assert report.passed and report.float64 and report.tolerance <= report.bound
    for factor in (-1, 0, 1.02):
        broken = copy.deepcopy(network)
        with torch.no_grad():
            broken.get_parameter(name).mul_(factor)
        report = ft.verify(model, broken, x)
        assert not report.passed and report.verdict == "different"
        assert report.wrong_parameter is not None and report.wrong_parameter.name == name


def test_a_wrong_activation_is_not_lost_in_rounding() -> None:
    """Its CoB is no parameter: the emitted network is held against the one that float64 emits."""
    torch.manual_seed(0)
    model, x = ft.randomize(Deep(10).bfloat16().eval()), inputs(torch.bfloat16)
    plan = ft.plan(model, x)
    network = plan.rewrite(plan.sample(0.9, "inter", seed=0))
    module = next(m for m in network.modules() if isinstance(m, (ft.TeleportedActivation, ft.Rescale)))
    next(module.buffers())[..., 0].mul_(-1)
    report = ft.verify(model, network, x)
    assert not report.passed and report.cannot_tell


def test_weights_of_another_origin_cannot_be_told() -> None:
    """Rounded after they were scaled, they compute something else in float64, too."""
    torch.manual_seed(0)
    model, x = ft.randomize(Deep(10).bfloat16().eval()), inputs(torch.bfloat16)
    plan = ft.plan(model, x, mode="weights")
    other = plan.apply_(plan.sample(0.9, "inter", seed=0), copy.deepcopy(model))
    report = ft.verify(model, other, x)
    assert not report.passed and report.verdict == "cannot tell" and report.tolerance > report.bound
    assert ft.verify(model, copy.deepcopy(model), x).passed


def test_float64_itself_cannot_tell() -> None:
    """So deep that not even its last bits are left."""
    torch.manual_seed(0)
    model, x = ft.randomize(Deep(30, gain=30).double().eval()), inputs(torch.float64)
    report = ft.verify(model, ft.teleport(model, x, cob_range=0.9, landscape="inter", seed=0), x)
    assert not report.passed and report.cannot_tell
    exact = ft.verify(model, ft.teleport(model, x, landscape="inter", exact=True, seed=0), x)
    assert exact.passed and exact.bitwise_equal  # powers of two round nothing


def test_classes_that_rounding_turns_are_decided_in_float64() -> None:
    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(32, 64), nn.Linear(64, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.b(torch.tanh(self.a(x)))
            return y, (y * 1e8).round().long()

    torch.manual_seed(0)
    model, x = ft.randomize(Choosing().eval()), inputs(torch.float32)
    network = ft.teleport(model, x, cob_range=0.9, landscape="inter", seed=0)
    report = ft.verify(model, network, x)
    assert report.passed and report.float64
    with torch.no_grad():
        network.get_parameter("b.bias").add_(1e-5)
    assert not ft.verify(model, network, x).passed


def test_the_bound_counts_weights_and_what_the_output_says() -> None:
    x = torch.tensor([[-1.0, 1.0], [0.5, 0.0]])
    assert largest_tolerance(nn.Linear(3, 2), [x]) == 1 / 2
    assert largest_tolerance(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), [x]) == 1 / 4
    assert largest_tolerance(nn.Linear(3, 2), [x / 1000 + 1]) == pytest.approx(1 / 2002, rel=1e-4)
    assert largest_tolerance(nn.Linear(3, 2), [x, torch.ones(4)]) == 1 / 2  # a constant says nothing
