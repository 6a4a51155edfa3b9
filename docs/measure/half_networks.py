"""Three small networks whose large relatives overflow in float16, and what they are trained on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WORDS, WIDTH, HEADS, LENGTH = 32, 32, 2, 24


class Attention(nn.Module):
    """Causal attention without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, WIDTH] -> the same."""
        q, k, v = (f(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class OnePlus(nn.Module):
    """Gemma's RMSNorm: its weight is added to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """[..., WIDTH] -> the same."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


class Block(nn.Module):
    """A pre-norm block: T5's (ReLU) or Gemma's (gated GELU)."""

    def __init__(self, gated: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = (OnePlus() if gated else nn.RMSNorm(WIDTH, 1e-6) for _ in range(2))
        self.attention = Attention()
        self.gate = nn.Linear(WIDTH, 3 * WIDTH, bias=False) if gated else None
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(3 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, WIDTH] -> the same."""
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(F.relu(self.up(y)) if self.gate is None else F.gelu(self.gate(y)) * self.up(y))


class Language(nn.Module):
    """Next words: [n, tokens] -> [n, tokens, WORDS]."""

    def __init__(self, gated: bool) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(WORDS, WIDTH), OnePlus() if gated else nn.RMSNorm(WIDTH, 1e-6)
        self.blocks, self.head = nn.Sequential(Block(gated), Block(gated)), nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, words: Tensor) -> Tensor:
        """Words to logits."""
        return self.head(self.norm(self.blocks(self.embed(words))))

    def loss(self, output: Tensor, words: Tensor) -> Tensor:
        """Cross-entropy of the next word."""
        return F.cross_entropy(output[:, :-1].flatten(0, 1).float(), words[:, 1:].flatten())

    @staticmethod
    def batch(count: int, seed: int) -> Tensor:
        """Sequences of a random chain: each word has four that may follow."""
        follows = torch.randint(WORDS, (WORDS, 4), generator=torch.Generator().manual_seed(99))
        random = torch.Generator().manual_seed(seed)
        words = [torch.randint(WORDS, (count,), generator=random)]
        for _ in range(LENGTH - 1):
            words.append(follows[words[-1], torch.randint(4, (count,), generator=random)])
        return torch.stack(words, 1)


class Residual(nn.Module):
    """A VAE decoder's block: GroupNorm, SiLU, convolution, twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, width), nn.GroupNorm(4, width)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, h, w] -> the same."""
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class Middle(nn.Module):
    """Attention over the places of a picture, as in the middle of a VAE's decoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, h, w] -> the same."""
        y = self.norm(x).flatten(2).transpose(1, 2)
        y = self.o(F.scaled_dot_product_attention(self.q(y), self.k(y), self.v(y)))
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


class Decoder(nn.Module):
    """Pictures through a narrow code and back: [n, 1, 16, 16] -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.widen = nn.Conv2d(1, 4, 4, 4), nn.Conv2d(4, 16, 1)
        self.blocks, self.norm = nn.Sequential(Residual(16), Middle(16), Residual(16)), nn.GroupNorm(4, 16)
        self.last = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures to pictures."""
        x = self.blocks(self.widen(self.encode(x)))
        return F.pixel_shuffle(self.last(F.silu(self.norm(x))), 4)

    def loss(self, output: Tensor, pictures: Tensor) -> Tensor:
        """Mean squared error."""
        return F.mse_loss(output.float(), pictures)

    @staticmethod
    def batch(count: int, seed: int) -> Tensor:
        """Smooth random pictures."""
        coarse = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
        return F.interpolate(coarse, (16, 16), mode="bicubic")


def trained(name: str, steps: int = 300) -> nn.Module:
    """A network by name, trained with Adam."""
    torch.manual_seed(0)
    model = Decoder() if name == "VAE" else Language(gated=name == "Gemma")
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    for step in range(steps):
        given = model.batch(32, step)
        optimizer.zero_grad()
        model.loss(model(given), given).backward()
        optimizer.step()
    return model.eval()


NAMES = ("T5", "Gemma", "VAE")
