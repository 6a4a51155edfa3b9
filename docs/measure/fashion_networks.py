"""Five small networks for Fashion-MNIST, one of each family that is quantised: [n, 1, 28, 28] -> [n, 10]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def normed(into: int, out: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and its batch norm."""
    convolution = nn.Conv2d(into, out, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out))


class Inverted(nn.Module):
    """MobileNetV2's block: wide in the middle, ReLU6, no activation behind."""

    def __init__(self, into: int, out: int, stride: int = 1, wider: int = 4) -> None:
        super().__init__()
        wide = wider * into
        self.residual = stride == 1 and into == out
        self.body = nn.Sequential(
            normed(into, wide, 1), nn.ReLU6(), normed(wide, wide, 3, stride, wide), nn.ReLU6(), normed(wide, out, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, into, h, w] -> [n, out, h', w']."""
        return x + self.body(x) if self.residual else self.body(x)


class Branches(nn.Module):
    """RepVGG's block: three branches while training, one convolution afterwards."""

    def __init__(self, into: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.big, self.small = normed(into, out, 3, stride), normed(into, out, 1, stride)
        self.same = nn.BatchNorm2d(out) if into == out and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """[n, into, h, w] -> [n, out, h', w']."""
        total = self.big(x) + self.small(x)
        return F.relu(total if self.same is None else total + self.same(x))

    @torch.no_grad()
    def merged(self) -> nn.Sequential:
        """The convolution with the same function."""
        first: nn.Conv2d = self.big[0]
        result = nn.Conv2d(first.in_channels, first.out_channels, 3, first.stride, 1)
        weight, bias = torch.zeros_like(result.weight), torch.zeros_like(result.bias)
        one = torch.eye(len(weight))[:, :, None, None] if self.same is not None else torch.empty(0)
        for kernel, norm in ((first.weight, self.big[1]), (self.small[0].weight, self.small[1]), (one, self.same)):
            if norm is not None:
                gain = norm.weight / (norm.running_var + norm.eps).sqrt()
                weight += F.pad(kernel, [(3 - kernel.shape[3]) // 2] * 4) * gain.view(-1, 1, 1, 1)
                bias += norm.bias - norm.running_mean * gain
        result.weight.copy_(weight)
        result.bias.copy_(bias)
        return nn.Sequential(result, nn.ReLU())


class Basic(nn.Module):
    """ResNet's block."""

    def __init__(self, into: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(normed(into, out, 3, stride), nn.ReLU(), normed(out, out, 3))
        self.short = nn.Identity() if into == out and stride == 1 else normed(into, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[n, into, h, w] -> [n, out, h', w']."""
        return F.relu(self.body(x) + self.short(x))


class Next(nn.Module):
    """ConvNeXt's block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, h, w] -> the same."""
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class Block(nn.Module):
    """A pre-norm transformer's block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, width] -> the same."""
        y = self.norm1(x)
        q, k, v = (f(y).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class ViT(nn.Module):
    """A vision transformer: 49 patches of 4 x 4 pixels, averaged at the end."""

    def __init__(self, width: int = 48, depth: int = 3, heads: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 49, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures to classes."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


def headed(width: int, *layers: nn.Module) -> nn.Sequential:
    """Layers, and a classifier of the mean of their channels."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def mobilenet() -> nn.Module:
    """In the style of MobileNetV2."""
    blocks = Inverted(16, 16), Inverted(16, 24, 2), Inverted(24, 24), Inverted(24, 32, 2), Inverted(32, 32)
    return headed(96, normed(1, 16, 3, 2), nn.ReLU6(), *blocks, normed(32, 96, 1), nn.ReLU6())


def repvgg() -> nn.Module:
    """In the style of RepVGG."""
    return headed(48, Branches(1, 16, 2), Branches(16, 16), Branches(16, 32, 2), Branches(32, 32), Branches(32, 48, 2))


def resnet() -> nn.Module:
    """In the style of ResNet."""
    return headed(48, normed(1, 16, 3, 2), nn.ReLU(), Basic(16, 16), Basic(16, 32, 2), Basic(32, 48, 2))


def convnext() -> nn.Module:
    """In the style of ConvNeXt."""
    return headed(48, nn.Conv2d(1, 24, 2, 2), Next(24), Next(24), nn.Conv2d(24, 48, 2, 2), Next(48), Next(48))


def deployed(model: nn.Module) -> nn.Module:
    """The network as it is run: the branches of RepVGG merged."""
    if not isinstance(model, nn.Sequential):
        return model
    parts = [part for block in model for part in (block.merged() if isinstance(block, Branches) else [block])]
    return nn.Sequential(*parts).eval()


NETWORKS = {"mobilenet": mobilenet, "repvgg": repvgg, "resnet": resnet, "convnext": convnext, "vit": ViT}
