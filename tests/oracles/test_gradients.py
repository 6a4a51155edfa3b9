"""Theorem 5.1: gradients scale inversely to the weights, in train mode and for any loss."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft


class Convolutional(nn.Module):
    """Batch norms, a residual, grouped convolutions, a gate, dropout (off)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.m = nn.Conv2d(6, 6, 3, padding=1, groups=3), nn.BatchNorm2d(6, momentum=0.3)
        self.gate, self.drop = nn.Conv2d(6, 6, 1), nn.Dropout(0.0)
        self.h, self.o = nn.Linear(6, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.n(self.a(x)))
        x = x + F.gelu(self.m(self.b(x)))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.o(self.drop(torch.tanh(self.h(x.mean((2, 3))))))


class Transformer(nn.Module):
    """Attention, layer norms, embeddings added, layer scale, a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.place = nn.Linear(12, 8), nn.Parameter(torch.randn(1, 4, 8))
        self.norm1, self.qkv, self.proj = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.ones(8))
        self.norm2, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(2).transpose(1, 2)[:, :75].reshape(len(x), -1)[:, :48].reshape(-1, 4, 12)) + self.place
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        x = x + self.scale * self.proj(attended)
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(self.norm(x).mean(1))


MODELS: dict[str, Callable[[], nn.Module]] = {"conv": Convolutional, "transformer": Transformer}


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(8, 3, 5, 5, generator=generator).double(), torch.randint(0, 4, (8,), generator=generator)


def trained(model: nn.Module, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one backward pass in train mode."""
    x, y = data()
    model.train()
    model.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("norm_stats", ["fixed", "wrapped"])
@pytest.mark.parametrize(("landscape", "exact"), [("inter", False), ("intra", False), ("inter", True)])
def test_theorem_5_1(kind: str, norm_stats: str, landscape: str, exact: bool) -> None:
    model = ft.randomize(MODELS[kind]().double())
    x, _ = data()
    plan = ft.plan(model, x, norm_stats=norm_stats)
    cob = plan.sample(0.7, landscape, exact=exact, seed=3)
    network, scales = plan.rewrite(cob), plan.scales(cob)
    before = copy.deepcopy(dict(model.named_buffers()))
    loss, gradients = trained(model)
    other_loss, other = trained(network)
    assert torch.allclose(loss, other_loss, rtol=1e-11, atol=0)
    assert gradients.keys() == other.keys() == dict(model.named_parameters()).keys()
    moved = 0
    for name, gradient in gradients.items():
        factor = scales.get(name, torch.ones(()))
        moved += int((factor != 1).any())
        error = (other[name] - gradient / factor).abs().max() / (gradient / factor).abs().max().clamp_min(1e-3)
        assert error < 1e-9, name
    assert moved >= len(gradients) // 2
    # Both modes see the original values in their batch norms: their statistics are the same.
    for name, buffer in model.named_buffers():
        assert torch.allclose(network.get_buffer(name), buffer, rtol=1e-10, atol=1e-12), name
        if "running" in name:
            assert not torch.equal(buffer, before[name])


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("norm_stats", ["fixed", "wrapped"])
def test_one_step_of_training_and_eval(kind: str, norm_stats: str) -> None:
    """SGD with weight decay 0 on the teleported network moves it, and eval() works afterwards."""
    model = ft.randomize(MODELS[kind]().double())
    x, y = data()
    plan = ft.plan(model, x, norm_stats=norm_stats)
    network = plan.rewrite(plan.sample(0.5, "inter", seed=1))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    loss, _ = trained(network)
    optimizer.step()
    assert F.cross_entropy(network(x), y) < loss
    network.eval()
    with torch.no_grad():
        out = network(x)
        assert torch.equal(out, network(x))
        assert torch.equal(out[:3], network(x)[:3])
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("norm_stats", ["fixed", "wrapped"])
def test_scaled_gradient_step_commutes_with_teleportation(norm_stats: str) -> None:
    """A step by grad' * factor**2 in the new basis is the step by grad in the old one."""
    model = ft.randomize(Convolutional().double())
    x, _ = data()
    plan = ft.plan(model, x, norm_stats=norm_stats)
    cob = plan.sample(0.5, "inter", seed=2)
    network, scales = plan.rewrite(cob), plan.scales(cob)
    _, gradients = trained(model)
    _, other = trained(network)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p -= 0.01 * gradients[name]
        for name, p in network.named_parameters():
            p -= 0.01 * other[name] * scales.get(name, torch.ones(())) ** 2
    model.eval(), network.eval()
    assert torch.allclose(network(x), model(x), rtol=1e-9, atol=1e-10)


def test_gradients_reach_the_inputs_unchanged() -> None:
    model = ft.randomize(Convolutional().double()).eval()
    x, y = data()
    network = ft.teleport(model, x, cob_range=0.9, landscape="inter", exact=True, seed=0)
    grads = []
    for net in (model, network):
        leaf = x.clone().requires_grad_()
        F.cross_entropy(net(leaf), y).backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)


def test_dropout_masks_agree_in_train_mode() -> None:
    """A mask falls on the same neurons: with one seed train mode computes the same function too."""
    model = ft.randomize(nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 4)))
    x = torch.randn(5, 6)
    network = ft.teleport(model, x, cob_range=0.9, landscape="inter", exact=True, seed=0)
    model.train(), network.train()
    torch.manual_seed(11)
    expected = model(x)
    torch.manual_seed(11)
    assert torch.equal(network(x), expected)
    assert not torch.equal(network(x), expected)
