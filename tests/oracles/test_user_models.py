"""Models that users write: each is exact in both modes, with every norm_stats, in float32 and float64.

`free` is the number of free values in mode "full" with fixed statistics, derived by hand beside each model: a
rule that pins more than it must is a defect too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and how many values are free (None: not derived)."""

    build: Callable[[], nn.Module]
    make: Callable[[torch.dtype], Any]
    free: int | None = None
    randomize: bool = True


CASES: dict[str, Case] = {}


def vectors(features: int = 6, batch: int = 3) -> Callable[[torch.dtype], Tensor]:
    return lambda dtype: torch.randn(batch, features, generator=torch.Generator().manual_seed(1)).to(dtype)


def pictures(channels: int = 3, *size: int) -> Callable[[torch.dtype], Tensor]:
    shape = (2, channels, *(size or (6, 6)))
    return lambda dtype: torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)


def tokens(length: int = 5, width: int = 8) -> Callable[[torch.dtype], Tensor]:
    return lambda dtype: torch.randn(2, length, width, generator=torch.Generator().manual_seed(3)).to(dtype)


def case(make: Callable[[torch.dtype], Any], free: int | None = None, randomize: bool = True) -> Callable[[type], type]:
    def register(cls: type) -> type:
        CASES[cls.__name__] = Case(cls, make, free, randomize)
        return cls

    return register


@case(vectors(), free=7 + 7)  # a -> relu -> b -> relu_ -> c
class FunctionalRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = self.b(x)
        x.relu_()
        return self.c(x)


@case(vectors(), free=6)  # its bias has one CoB, so both calls give the same; then what goes in is the same too
class CalledTwice(nn.Module):
    """One module, two calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.twice(x))
        x = torch.relu(self.twice(x))
        return self.last(x)


@case(vectors(6))
class TiedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 6)
        self.decode = nn.Linear(6, 6)
        self.decode.weight = self.encode.weight
        self.middle = nn.Linear(6, 5)
        self.back = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.encode(x))
        return self.decode(self.back(torch.relu(self.middle(x))))


@case(lambda dtype: torch.arange(10).view(2, 5) % 7)
class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        return self.head(h + torch.relu(self.mix(h)))


@case(vectors())
class WeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Linear(6, 7))
        self.b = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def convolutions(rank: int) -> type[nn.Module]:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    up = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]

    class Convolutions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = conv(3, 8, 3, padding=1)
            self.grouped = conv(8, 12, 3, padding=1, groups=4)
            self.depthwise = conv(12, 12, 3, padding=1, groups=12)
            self.up = up(12, 8, 2, stride=2, groups=2)
            self.wide = up(8, 6, 3, stride=1, padding=1)
            self.out = conv(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            x = F.gelu(self.grouped(x))
            x = torch.relu(self.depthwise(x))
            x = torch.tanh(self.up(x))
            x = F.leaky_relu(self.wide(x), 0.1)
            return self.out(x)

    return Convolutions


for _rank in (1, 2, 3):
    CASES[f"Convolutions{_rank}d"] = Case(convolutions(_rank), pictures(3, *(4,) * _rank), 8 + 12 + 12 + 8 + 6)


@case(pictures(), free=5 + 7)  # both PReLU kinds pass their input's CoB
class PReLUs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.f = nn.Conv2d(3, 5, 3), nn.PReLU()
        self.b, self.g = nn.Conv2d(5, 7, 3), nn.PReLU(7)
        self.c = nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.g(self.b(self.f(self.a(x)))))


@case(tokens(), free=2 * 4 + 2 * 4)  # q = 1/k and v, for 2 heads of 4 dimensions
class EinsumAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, 2, 4) for f in (self.q, self.k, self.v))
        weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
        return self.o(torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, n, 8))


@case(tokens(), free=8 + 8 + 8)  # q = 1/k, v, and the output of the projection
class TorchAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attn(x, x, x, need_weights=False)[0])


@case(tokens())
class CrossAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.Linear(8, 6)
        self.attn = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, add_bias_kv=True, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        memory = torch.relu(self.memory(x))
        out, weights = self.attn(x, memory, memory)
        return self.head(out), weights


@case(tokens(), free=8 + 8 + 8 + 8 + 8 + 16 + 8)  # stream, norm1, q = 1/k, v, norm2, hidden, last norm
class Encoder(nn.Module):
    """The stream starts at a linear layer; both norms are before their blocks."""

    def __init__(self, norm_first: bool = True) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layer(self.stem(x))))


# Norms after: norm2's output feeds `norm`; streams: stem 8, norm1 8, norm2 8; q 8, v 8, hidden 16, last norm 8.
CASES["EncoderPostNorm"] = Case(lambda: Encoder(False), tokens(), 8 + 8 + 8 + 8 + 8 + 16 + 8)


@case(tokens(), free=8 + 6 + 8)  # what enters the recurrent layer, the signs of its units, the hidden layer
class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Linear(8, 8), nn.LSTM(8, 6, batch_first=True)
        self.hidden, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, (h, _) = self.lstm(self.embed(x))
        return self.head(torch.relu(self.hidden(out[:, -1] + h[0])))


@case(pictures(), free=5)
class BranchOnShape(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        if h % 4:
            x = F.pad(x, (0, 4 - w % 4, 0, 4 - h % 4))
        return self.b(torch.relu(self.a(x)))


@case(vectors(), free=7 + 7)  # the product's CoB is the product: both gates free
class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 7), nn.Linear(6, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x) * torch.sigmoid(self.b(x)))


@case(vectors(), free=7 + 7)  # c = a * b: two of three
class SumOfProducts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 7), nn.Linear(6, 7), nn.Linear(6, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(x) + self.a(x) * self.b(x))


@case(vectors(), free=7 + 7)  # b keeps its sign, a is free, c = a * b
class SignGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 7), nn.Linear(6, 7), nn.Linear(6, 7), nn.Linear(7, 4)
        self.e = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        b = self.b(x)
        return self.d(self.c(x) + self.a(x) * b) + self.e(1 + b.square())


@case(vectors(), free=7 + 7)  # b * b is added to 1, so b keeps its sign only; c = a
class Ratio(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 7), nn.Linear(6, 7), nn.Linear(6, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(x) + self.a(x) / (1 + self.b(x).square()))


@case(pictures(4, 4, 4), free=6 + 6)  # conv 6, and the hidden layer 6 (channels are the same for all positions)
class ChannelsIntoLinear(nn.Module):
    """A reshape that moves channels before a Linear: its columns are (channel, column) pairs of one row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(4, 6, 1), nn.Linear(24, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).permute(0, 2, 1, 3).flatten(2)
        return self.b(torch.relu(self.a(x)))


@case(pictures(3, 6, 6), free=5 + 7)
class FlattenIntoLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 5, 3), nn.Linear(80, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(torch.flatten(F.max_pool2d(torch.relu(self.conv(x)), 1), 1))))


@case(vectors(), free=7)  # the stream is an output: pinned; the hidden layer is free
class ResidualLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.b(torch.relu(self.a(x)))


@case(vectors(), free=7)  # the dead branch's parameters are kept, and are not teleported
class DeadBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.dead = nn.Linear(6, 7), nn.Linear(7, 4), nn.Linear(7, 9)
        self.unused = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        self.dead(x)
        return self.b(x)


@case(pictures(), free=4 + 5 + 6)
class ConcatInAnotherOrder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(3, 6, 1)
        self.d = nn.Conv2d(15, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.a(x), self.b(x), self.c(x)
        return self.d(torch.relu(torch.cat([c, a, b], 1)))


@case(vectors())
class ReluThroughView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x[:, :2].relu_()
        return self.b(x)


@case(vectors())
class SigmoidThroughChunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        left, right = x.chunk(2, 1)
        left.sigmoid_()
        right.mul_(2)
        return self.b(x)


@case(vectors(), free=7)
class InplaceAlias(nn.Module):
    """`shortcut` is the same tensor as x: after `x += f(x)` both hold the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        shortcut = x
        x += torch.relu(self.a(x))
        return self.b(shortcut) + self.b(x * 2)


@case(vectors())
class InplaceMultiply(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(6, 7), nn.Linear(6, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        before = y.clone()
        same = y
        y *= torch.sigmoid(self.a(x))
        return self.b(before) + self.b(same) + self.b(y)


@case(vectors())
class InplaceTwoNames(nn.Module):
    """An in-place activation on a tensor that a reshape still looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        folded = x.view(3, 2, 4)
        F.relu(x, inplace=True)
        return self.b(folded.flatten(1)) + self.b(x)


@case(vectors(), free=8)
class InplaceModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.f, self.b = nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        before = self.a(x)
        after = self.f(before)
        return self.b(after) + self.b(before)


@case(vectors(), free=7)
class SetItem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x[:, 1] = 0
        return self.b(torch.relu(x))


@case(vectors(), free=10)
class SetItemBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.b = nn.Linear(6, 7), nn.Linear(6, 3), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        out = x.new_zeros(x.shape[0], 10)
        out[:, :7] = self.a(x)
        out[:, 7:] = self.c(x)
        return self.b(torch.relu(out))


@case(tokens(), free=8 + 8)
class ScaledDotProduct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


@case(lambda dtype: torch.arange(10).view(2, 5) % 7, free=8 + 6)
class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(7, 8), nn.Parameter(torch.randn(1, 5, 8))
        self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(self.embed(x) + self.place)))


@case(vectors(), free=5 + 7 + 6)
class BilinearLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.m, self.o = nn.Linear(6, 5), nn.Linear(6, 7), nn.Bilinear(5, 7, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.relu(self.m(torch.relu(self.a(x)), torch.tanh(self.b(x)))))


# Each norm's input and (through its affine parameters) its output are free.
@case(pictures(), free=4 + 4 + 4 + 4 + 4)  # conv, group norm, conv2, instance norm with affine, conv3's own output
class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.g = nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.b, self.i = nn.Conv2d(4, 4, 3, padding=1), nn.InstanceNorm2d(4, affine=True)
        self.c, self.o = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.g(self.a(x)))
        x = torch.relu(self.i(self.b(x)))
        return self.o(torch.relu(self.c(x)))


@case(tokens(), free=8 * 4)  # linear, layer norm, linear, rms norm
class TokenNorms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Linear(8, 8), nn.LayerNorm(8)
        self.b, self.r = nn.Linear(8, 8), nn.RMSNorm(8)
        self.o = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.gelu(self.r(self.b(F.gelu(self.n(self.a(x)))))))


@case(pictures(), free=5 + 5 + 4)
class TrackedInstanceNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 5, 3), nn.InstanceNorm2d(5, affine=True, track_running_stats=True)
        self.b, self.o = nn.Conv2d(5, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.relu(self.b(torch.relu(self.n(self.a(x))))))


@case(pictures(), free=5)  # batch norm's output, through its affine parameters
class FunctionalBatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1)
        self.weight, self.bias = nn.Parameter(torch.ones(5)), nn.Parameter(torch.zeros(5))
        self.register_buffer("running_mean", torch.zeros(5))
        self.register_buffer("running_var", torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(self.a(x), self.running_mean, self.running_var, self.weight, self.bias, self.training)
        return self.b(torch.relu(x))


@case(pictures(), free=5 + 4)
class BatchNorms(nn.Module):
    """With affine parameters, and without: the latter pins what enters and what leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)
        self.b, self.bare = nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6, affine=False)
        self.c, self.o = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.relu(self.c(torch.relu(self.bare(self.b(F.silu(self.n(self.a(x)))))))))


class StochasticDepth(nn.Module):
    """One coin for each sample."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = torch.empty((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype).bernoulli_(1 - self.p)
        return x * keep / (1 - self.p)


@case(vectors(), free=7 + 7)
class WithStochasticDepth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 7)
        self.drop, self.head = StochasticDepth(), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.drop(self.b(torch.relu(self.a(x)))))


@case(vectors())
class Hooked(nn.Module):
    """What forward hooks change is part of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 3)
        self.b.register_forward_hook(lambda module, args, output: output + 1)
        self.c.register_forward_pre_hook(lambda module, args: (args[0].sigmoid(),))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


@case(vectors(), free=7 + 8)
class TupleOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 7), nn.Linear(7, 4), nn.Linear(7, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.a(x))
        return self.b(x), self.d(torch.relu(self.c(x)))


@case(vectors(), free=7)
class FeatureOutput(nn.Module):
    """A hidden feature that is an output too is pinned; the other layer stays free."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 7), nn.Linear(7, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feature = torch.relu(self.b(torch.relu(self.a(x))))
        return self.c(feature), feature


@case(pictures(3, 8, 8))
class WeightStandardised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 2, 1)
        self.gain = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        w = self.b.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.var((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        return self.o(torch.relu(F.conv2d(x, w * self.gain.view(-1, 1, 1, 1), self.b.bias)))


@case(pictures(4, 8, 8), free=4 * 1 + 2)
class Shuffled(nn.Module):
    """Pixel shuffle: 16 channels become 4 of 2 x 2; the next convolution joins the four positions of each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(4, 16, 1), nn.Conv2d(4, 2, 3), nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(F.pixel_shuffle(torch.relu(self.a(x)), 2))))


@case(pictures(4, 6, 6), free=6 + 3 + 6)
class SqueezeExcite(nn.Module):
    """The gate's output CoB is free, so is the stream's; the hidden layer of the gate too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.down, self.up, self.o = (
            nn.Conv2d(4, 6, 1), nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.a(x))
        gate = self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True))))
        return self.o(x * torch.sigmoid(gate))


@case(tokens(), free=4 + 4)  # q's 4 heads share the 2 of k: 4 values each
class GroupedQueries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, 2).transpose(1, 2)
        k = self.k(x).view(b, n, 2, 2).transpose(1, 2).repeat_interleave(2, 1)
        v = self.v(x).view(b, n, 2, 2).transpose(1, 2).repeat_interleave(2, 1)
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, n, 8))


@case(tokens(), free=4 + 8)  # q = 1/k: 2 heads of 2 pairs; v: 8
class RotaryAttention(nn.Module):
    """Rotation mixes pairs of dimensions with constants: the pair shares one CoB."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        angle = torch.arange(5.0)[:, None] * torch.tensor([1.0, 0.1])
        self.register_buffer("cos", angle.cos().repeat(1, 2))
        self.register_buffer("sin", angle.sin().repeat(1, 2))

    def turned(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return x * self.cos + torch.cat([-right, left], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v)
        return self.o(out.transpose(1, 2).reshape(b, n, 8))


@case(vectors(), free=7 + 4 + 6)  # x's channels; the weight's two axes up to a scale
class CosineHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.weight = nn.Linear(6, 7), nn.Parameter(torch.randn(4, 7))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1)) * 4.0


@case(vectors(), free=7 + 7)
class Highway(nn.Module):
    """x * (1 - g) + h * g: `1 - g` is an activation, so the gate has a CoB; x and h share one."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.g, self.h, self.o = nn.Linear(6, 7), nn.Linear(6, 7), nn.Linear(6, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.g(x))
        y = self.x(x)
        return self.o(y * (1 - gate) + torch.tanh(self.h(x)) * gate)


@case(vectors())
class Maxout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.a(x).view(-1, 4, 2).amax(-1)
        return self.o(pooled + torch.maximum(self.b(x)[:, :4], self.b(x)[:, 4:]))


@case(vectors(), free=7 + 5)
class SharedActivation(nn.Module):
    """One activation module, two streams with CoBs of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.act = nn.Linear(6, 7), nn.Linear(7, 5), nn.Linear(5, 4), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.act(self.b(self.act(self.a(x)))))


@case(vectors(), free=7 + 5 + 6)
class NamedLikeAFunction(nn.Module):
    """Modules whose names are those that the graph gives to function calls."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 7), nn.Linear(7, 5), nn.Linear(5, 6), nn.Linear(6, 4)
        self.gelu, self.tanh, self.layer_norm_rescale = nn.GELU(), nn.Tanh(), nn.Identity()
        self.relu = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.a(x))
        x = torch.relu(self.gelu(self.b(x)) + self.relu)
        return self.d(self.layer_norm_rescale(F.layer_norm(self.tanh(torch.tanh(self.c(x))), (6,))))


@case(vectors())
class ComplexBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(torch.relu(self.a(x)), dim=-1)
        return self.o(torch.relu(self.b(torch.fft.irfft(spectrum, n=8, dim=-1))))


@pytest.mark.parametrize("name", list(CASES))
def test_exact(name: str, assert_exact_everywhere: Callable[..., None]) -> None:
    case = CASES[name]
    assert_exact_everywhere(case.build, case.make, randomize=case.randomize, at_least=0)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.free is not None])
def test_free_values(name: str) -> None:
    case = CASES[name]
    model = case.build().eval()
    plan = ft.plan(model, case.make(torch.float32))
    assert plan.num_free == case.free, [(g.kind, g.size, g.why) for g in plan.groups]


def test_attention_returns_its_weights(assert_exact: Callable[..., ft.Plan]) -> None:
    class WithWeights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.attn = nn.Linear(8, 8), nn.MultiheadAttention(8, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
            x = self.stem(x)
            return self.attn(x, x, x)

    assert_exact(WithWeights(), torch.randn(5, 2, 8))


def test_opaque_layer_is_named() -> None:
    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.pool = nn.Linear(8, 8), nn.LPPool1d(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.stem(x))

    plan = ft.plan(Unknown().eval(), torch.randn(2, 5, 8))
    assert any("pool" in o.why for o in plan.opaque)
