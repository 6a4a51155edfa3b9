"""Folded norms compute what the model computes, and what cannot be folded is kept and told."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft


def drawn(model: nn.Module) -> nn.Module:
    """The model in float64 with generic parameters and statistics."""
    return ft.randomize(model.double().eval())


def folded(model: nn.Module, x: Tensor, norms: int) -> nn.Module:
    before = {n: t.clone() for n, t in model.state_dict().items()}
    network = ft.fold_norms(model, x)
    expected = model(x)
    assert float(expected.detach().std()) > 0
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-12)
    assert len(ft.folded_norms(network).folded) == norms
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    return network


LAYERS = [
    (nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6), (2, 4, 9)),
    (nn.Conv2d(4, 6, 3, bias=False, padding=1), nn.BatchNorm2d(6), (2, 4, 7, 7)),
    (nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6), (2, 4, 4, 4, 4)),
    (nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), (2, 4, 7, 7)),
    (nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8, affine=False), (2, 4, 7, 7)),
    (nn.ConvTranspose2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), (2, 4, 7, 7)),
    (nn.ConvTranspose1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), (2, 4, 7)),
    (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), (5, 4)),
    (nn.Conv2d(4, 6, 3), nn.InstanceNorm2d(6, affine=True, track_running_stats=True), (2, 4, 7, 7)),
]


@pytest.mark.parametrize(("layer", "norm", "shape"), LAYERS, ids=lambda x: type(x).__name__)
def test_into_the_layer_before(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    network = folded(drawn(nn.Sequential(layer, nn.Dropout(), norm, nn.ReLU())), x, 1)
    assert not any(isinstance(m, nn.modules.batchnorm._NormBase) for m in network.modules())


@pytest.mark.parametrize(
    ("norm", "layer", "shape"),
    [
        (nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), (2, 4, 7, 7)),
        (nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2, padding="valid", bias=False), (2, 4, 7, 7)),
        (nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 7, 7)),
        (nn.BatchNorm1d(4), nn.Linear(4, 6), (5, 4)),
    ],
)
def test_into_the_layer_behind(norm: nn.Module, layer: nn.Module, shape: tuple[int, ...]) -> None:
    folded(drawn(nn.Sequential(nn.ReLU(), norm, layer)), torch.randn(shape, dtype=torch.float64), 1)


class Functional(nn.Module):
    """The same spelled with functions and parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4, 3))
        self.gain, self.shift = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))
        self.register_buffer("mean", torch.randn(6))
        self.register_buffer("var", torch.rand(6) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv1d(x, self.weight, padding=1)
        return F.relu(F.batch_norm(y, self.mean, self.var, self.gain, self.shift, eps=0.1))


def test_functions() -> None:
    network = folded(Functional().double().eval(), torch.randn(2, 4, 9, dtype=torch.float64), 1)
    assert set(network.state_dict()) == {"weight", "bias"}


class Shared(nn.Module):
    """One convolution under two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.conv(self.a(self.conv(x)).relu())).relu()


KEPT = [
    (Shared(), "shared"),
    (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU()), "no output of a linear layer"),
    (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)), "pads with zeros"),
    (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 3)), "transposed"),
    (nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), "no running statistics"),
    (nn.Sequential(nn.Conv2d(4, 4, 1), nn.InstanceNorm2d(4)), "no running statistics"),
]


@pytest.mark.parametrize(("model", "why"), KEPT, ids=[why for _, why in KEPT])
def test_kept_norms_are_told(model: nn.Module, why: str) -> None:
    model, x = drawn(model), torch.randn(2, 4, 7, 7, dtype=torch.float64)
    network = folded(model, x, 0)
    assert all(why in text for text in ft.folded_norms(network).kept.values())
    with pytest.raises(ft.ModelError, match=why):
        ft.fold_norms(model, x, strict=True)


def test_an_output_with_other_uses_keeps_its_norm() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y).relu() + y

    network = folded(drawn(Both()), torch.randn(2, 4, 5, 5, dtype=torch.float64), 0)
    assert "other uses" in ft.folded_norms(network).kept["norm"]


def test_a_shared_norm_is_folded_into_each_layer() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.b(self.norm(self.a(x)).relu())).relu()

    folded(drawn(Twice()), torch.randn(2, 4, 5, 5, dtype=torch.float64), 2)


def test_the_folded_network_can_be_planned() -> None:
    model = drawn(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 4, 1)))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    network = ft.fold_norms(model, x)
    plan = ft.plan(network, x)
    assert plan.num_free == 8
    assert ft.verify(network, plan.rewrite(plan.sample(0.5, exact=True, seed=0)), x).bitwise_equal
