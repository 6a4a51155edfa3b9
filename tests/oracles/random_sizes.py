"""Steps of random networks whose numbers come from a size: that of an axis which is no feature axis.

Each line runs at other sizes of that axis than those it was made for, and computes something there that the example
does not show: rows of a table that it does not reach, a term that is 0 there, a part that is empty. `t` is the size at
run time, `n` what it was when the step was made, `_MORE` how much longer the tables are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from random_operations import Buffered, Function, Operation, Own, floats, images, tokens
from torch import Tensor, nn

_MORE = 3


def matrices(x: Tensor) -> bool:
    return floats(x) and x.ndim > 2


def back(x: Tensor, width: int) -> Tensor:
    """With as many features as before: cut, or filled with zeros."""
    return F.pad(x, (0, width - int(x.shape[-1])))


# -- rows of a table, one a position --------------------------------------------------------------------------------

ROWS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "slice": lambda w, t: w[:t],
    "slice from the end": lambda w, t: w[-t:],
    "arange": lambda w, t: w[torch.arange(t)],
    "narrow": lambda w, t: w.narrow(0, 0, t),
    "moving narrow": lambda w, t: w.narrow(0, w.shape[0] - t, t),
    "negative pad": lambda w, t: F.pad(w, (0, 0, 0, t - w.shape[0])),
    "split": lambda w, t: w.split([t, w.shape[0] - t])[0],
    "tensor_split": lambda w, t: w.tensor_split([t])[0],
    "index_select": lambda w, t: w.index_select(0, torch.arange(t)),
    "embedding": lambda w, t: F.embedding(torch.arange(t), w),
    "roll": lambda w, t: w.roll(t, 0)[:t],
    "stride": lambda w, t: w[:: w.shape[0] // t][:t],
    "interpolate": lambda w, t: F.interpolate(w.t()[None], size=t, mode="nearest")[0].t(),
    "gather": lambda w, t: w.gather(0, torch.arange(t)[:, None].expand(t, w.shape[1])),
    "view": lambda w, t: w.reshape(-1)[: t * w.shape[1]].view(t, -1),
    "mask": lambda w, t: w[torch.arange(w.shape[0]) < t],
}


def rowed(rows: Callable[[Tensor, int], Tensor]) -> Operation:
    """Rows of a learned table, added or multiplied: along the axis before the last, or along the batch."""

    def make(pick: Any, x: Tensor) -> nn.Module:
        axis, join, width = pick(-2, 0), pick(torch.add, torch.mul), pick(x.shape[-1], 1)

        def fn(x: Tensor, w: Tensor) -> Tensor:
            found = rows(w, x.shape[axis])
            return join(x, found.view(-1, *[1] * (x.ndim - 2), width) if axis == 0 else found)  # type: ignore[no-any-return]

        return Own(fn, x.shape[axis] + _MORE, width)

    return Operation(make, floats, plain=False)


def scaled_there_and_back(pick: Any, x: Tensor) -> nn.Module:
    """A scale a position before an activation, and another after it (no bias ties the positions)."""
    n = x.shape[-2] + _MORE
    return Own(lambda x, w: F.relu(x * w[0, : x.shape[-2]]) * w[1, : x.shape[-2]], 2, n, 1)


# -- numbers --------------------------------------------------------------------------------------------------------

NUMBERS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "times": lambda x, t, n: x * t,
    "plus": lambda x, t, n: x + (t - n),
    "divided": lambda x, t, n: x / t,
    "power": lambda x, t, n: x ** (t % 3 + 1),
    "added twice": lambda x, t, n: torch.add(x, 1, alpha=t - n),
    "clamp_min": lambda x, t, n: x.clamp_min(t - n),
    "hardtanh": lambda x, t, n: F.hardtanh(x, -1.0, t - n + 1.0),
    "leaky_relu": lambda x, t, n: F.leaky_relu(x, (t - n) / 4),
    "threshold": lambda x, t, n: F.threshold(x, t - n, 0.0),
    "elu": lambda x, t, n: F.elu(x, t / 2),
    "where above": lambda x, t, n: torch.where(x > t - n, x, 0.0),
    "masked_fill": lambda x, t, n: x.masked_fill(torch.arange(x.shape[-1]) % 2 == 0, (t - n) / 2),
    "pad with": lambda x, t, n: F.pad(x, (1, 0), value=(t - n) / 2),
    "full_like": lambda x, t, n: x + torch.full_like(x, (t - n) / 2),
    "full": lambda x, t, n: torch.cat([x, torch.full((*x.shape[:-1], 1), (t - n) / 2, dtype=x.dtype)], -1),
    "fill_": lambda x, t, n: torch.cat([x, x[..., :1].clone().fill_((t - n) / 2)], -1),
    "set": lambda x, t, n: set_to(x, (t - n) / 2),
    "a tensor": lambda x, t, n: x + torch.tensor((t - n) / 2, dtype=x.dtype),
    "arange": lambda x, t, n: x + torch.arange(n, t + 1, dtype=x.dtype).sum(),
    "out of a tensor": lambda x, t, n: x.reshape(int(torch.tensor(x.shape)[0]), *x.shape[1:]),
    "branch": lambda x, t, n: F.relu(x) if t > n else -x,
    "min": lambda x, t, n: x + min(t - n, 1),
    "bool": lambda x, t, n: x * (1 + (t == n)),
}


def set_to(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x[..., :1] = value
    return x


# -- features that a size cuts --------------------------------------------------------------------------------------

CUTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "prefix": lambda x, t: back(x[..., :t], x.shape[-1]),
    "rest": lambda x, t: back(x[..., t:], x.shape[-1]),
    "narrow": lambda x, t: x.narrow(-1, t % x.shape[-1], 1),
    "select": lambda x, t: x[..., t % x.shape[-1]][..., None],
    "index": lambda x, t: x[..., [0, t % x.shape[-1]]],
    "index_select": lambda x, t: x.index_select(-1, torch.arange(t) % x.shape[-1]).sum(-1, keepdim=True),
    "split": lambda x, t: back(x.split(t, -1)[0], x.shape[-1]),
    "split with sizes": lambda x, t: back(
        x.split([min(t, x.shape[-1]), x.shape[-1] - min(t, x.shape[-1])], -1)[0], x.shape[-1]
    ),
    "chunk": lambda x, t: back(x.chunk(t, -1)[0], x.shape[-1]),
    "stride": lambda x, t: back(x[..., ::t], x.shape[-1]),
    "roll": lambda x, t: x.roll(t, -1),
    "roll by the size less one": lambda x, t: x.roll(1 - t, -1),
    "zeroed": lambda x, t: zeroed(x, t),
    "pad": lambda x, t: F.pad(x, (t, -t)),
    "topk": lambda x, t: x.topk(min(t, x.shape[-1]), -1).values.sum(-1, keepdim=True),
    "diagonal": lambda x, t: torch.diag_embed(x, min(t, 2)).sum(-2),
    "repeat": lambda x, t: x.repeat(*[1] * (x.ndim - 1), t)[..., -x.shape[-1] - 1 :][..., : x.shape[-1]],
}


def zeroed(x: Tensor, t: int) -> Tensor:
    x = x.clone()
    x[..., t:] = 0
    return x


def cut(fn: Callable[[Tensor, int], Tensor]) -> Operation:
    """Features cut by the size of the batch, or of the axis after it."""

    def make(pick: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
        axis = pick(*range(x.ndim - 1))
        return lambda x: fn(x, x.shape[axis])

    return Operation(make, lambda x: floats(x) and x.shape[-1] > 1, plain=False)


def sized_weight(pick: Any, x: Tensor) -> nn.Module:
    """As many input features as the batch, or an axis, is long (slimmable networks)."""
    axis = pick(*range(x.ndim - 1))

    def fn(x: Tensor, w: Tensor) -> Tensor:
        return F.linear(x[..., : x.shape[axis]], w[:, : x.shape[axis]])

    return Own(fn, pick(2, 3), x.shape[-1])


# -- what is made with sizes ----------------------------------------------------------------------------------------

MADE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "zeros written": lambda x, n: into(torch.zeros(x.shape[0], x.shape[1] + 1, *x.shape[2:], dtype=x.dtype), x),
    "zeros of a fixed length written": lambda x, n: into(torch.zeros(x.shape[0], n, *x.shape[2:], dtype=x.dtype), x),
    "new_zeros": lambda x, n: torch.cat([x.new_zeros(x.shape[0], 1, *x.shape[2:]), x], 1),
    "new_ones": lambda x, n: torch.cat([x.new_ones(x.shape[0], 1, *x.shape[2:]), x], 1),
    "pad to a fixed length": lambda x, n: F.pad(x, (0, 0) * (x.ndim - 2) + (0, n - x.shape[1])),
    "zero past the batch": lambda x, n: past(x, x.shape[0]),
    "zero past the length": lambda x, n: past(x, x.shape[1] - 1),
    "zero past the example": lambda x, n: past(x, n - _MORE),
    "eye": lambda x, n: x + torch.eye(x.shape[-2], x.shape[-1], dtype=x.dtype),
    "ramp": lambda x, n: x * torch.arange(1, x.shape[-2] + 1, dtype=x.dtype)[:, None],
    "ramp from the example": lambda x, n: (
        x * torch.arange(n - _MORE, n - _MORE + x.shape[1]).clamp(max=n).to(x).view(-1, *[1] * (x.ndim - 2))
    ),
    "one row after the other": lambda x, n: torch.stack([x[:, i] for i in range(x.shape[1])][::-1], 1),
    "one sample after the other": lambda x, n: torch.stack([row * 2 for row in x]),
    "product over the batch": lambda x, n: x.prod(0, keepdim=True).expand(x.shape),
    "product over the length": lambda x, n: x.prod(1, keepdim=True).expand(x.shape),
    "running product over the batch": lambda x, n: x.cumprod(0),
    "power of the mean": lambda x, n: x.mean(0, keepdim=True).expand(x.shape),
    "mean by hand": lambda x, n: (x.sum(1, keepdim=True) / x.shape[1]).expand(x.shape),
    "the middle": lambda x, n: x[:, x.shape[1] // 2 :][:, :1].expand(x.shape),
    "norm over the batch": lambda x, n: x / (x.norm(dim=0, keepdim=True) + 1),
}


def into(made: Tensor, x: Tensor) -> Tensor:
    made[:, : x.shape[1]] = x
    return made


def past(x: Tensor, t: int) -> Tensor:
    x = x.clone()
    x[:, t:] = 0
    return x


def made(fn: Callable[[Tensor, int], Tensor]) -> Operation:
    return Operation(
        lambda pick, x: (lambda n: lambda x: fn(x, n))(x.shape[1] + _MORE),
        lambda x: floats(x) and x.ndim > 2,
        plain=False,
    )


# -- views by sizes -------------------------------------------------------------------------------------------------

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "there and back": lambda x: x.reshape(x.shape[0] * x.shape[1], -1).view(x.shape),
    "batch and length swapped": lambda x: x.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1),
    "length and features swapped": lambda x: x.reshape(*x.shape[:-2], x.shape[-1], x.shape[-2]).transpose(-1, -2),
    "batch and features swapped": lambda x: x.reshape(x.shape[-1], *x.shape[1:-1], x.shape[0]).transpose(0, -1),
    "squeezed": lambda x: x.squeeze().reshape(x.shape),
    "first joined": lambda x: x.flatten(0, 1).unflatten(0, x.shape[:2]),
    "of one row": lambda x: x.reshape(1, -1, *x.shape[2:]).view(x.shape),
    "batch last": lambda x: x.reshape(-1, x.shape[0]).t().reshape(x.shape),
    "transposed as a whole": lambda x: x.transpose(0, -1).reshape(x.shape),
    "permuted as a whole": lambda x: x.permute(*reversed(range(x.ndim))).reshape(x.shape),
    "flipped as a whole": lambda x: x.reshape(-1).flip(0).view(x.shape),
    "rolled as a whole": lambda x: x.roll(1),
    "unfolded by the batch": lambda x: x.repeat_interleave(x.shape[0], 0)[:: x.shape[0]],
}


# -- constants for each sample --------------------------------------------------------------------------------------

CONSTANTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "expand": lambda x, c: torch.cat([c.expand(x.shape[0], -1, -1), x], 1),
    "repeat": lambda x, c: torch.cat([c.repeat(x.shape[0], 1, 1), x], 1),
    "tile": lambda x, c: torch.cat([x, c.tile(x.shape[0], 1, 1)], 1),
    "repeat_interleave": lambda x, c: torch.cat([x, c.repeat_interleave(x.shape[0], 0)], 1),
    "stack": lambda x, c: torch.cat([x, torch.stack([c[0]] * x.shape[0])], 1),
    "new_tensor": lambda x, c: x + c.new_ones(x.shape[0], 1, 1),
    "expand along the length": lambda x, c: x + c.expand(-1, x.shape[1], -1),
}


def constant(fn: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    """A constant, or a parameter, of each sample."""

    def make(pick: Any, x: Tensor) -> nn.Module:
        if pick(True, False):
            return Buffered(lambda x, c: fn(x, c.to(x.dtype)), torch.arange(1, x.shape[-1] + 1)[None, None])
        return Own(fn, 1, 1, x.shape[-1])

    return Operation(make, tokens, plain=False)


# -- joined along the length, and cut again -------------------------------------------------------------------------

JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "the first again": lambda x, y: torch.cat([x, y], 1)[:, : x.shape[1]] * 1,
    "the second again": lambda x, y: torch.cat([x, y], 1)[:, x.shape[1] :],
    "the last": lambda x, y: torch.cat([x, y], 1)[:, -x.shape[1] :],
    "split": lambda x, y: torch.cat([x, y], 1).split([x.shape[1], y.shape[1]], 1)[1],
    "half": lambda x, y: torch.cat([x, y], 1).chunk(2, 1)[0],
    "narrow": lambda x, y: torch.cat([x, y], 1).narrow(1, 1, x.shape[1]),
    "features by the length": lambda x, y: torch.cat([x, y], -1).narrow(-1, x.shape[1] % x.shape[-1], x.shape[-1]),
    "write": lambda x, y: written(x, y, x.shape[1] // 2),
    "write a channel": lambda x, y: written(x.mT, y.mT, x.shape[0] % x.shape[2]).mT,
    "scatter": lambda x, y: torch.slice_scatter(x, y[:, : x.shape[1] // 2], 1, 0, x.shape[1] // 2),
    "over the batch": lambda x, y: torch.cat([x, y], 0)[: x.shape[0]],
    "times the length": lambda x, y: torch.add(x, y, alpha=x.shape[1] - 2),
    "lerp by the length": lambda x, y: torch.lerp(x, y, (x.shape[1] - 2) / 4),
}


def written(x: Tensor, y: Tensor, at: int) -> Tensor:
    x = x.clone()
    x[:, at:] = y[:, at:]
    return x


# -- tables that an index, a mask or a matrix cuts ------------------------------------------------------------------


class Relative(nn.Module):
    """A bias a pair of positions, out of a table by an index that sizes cut (windowed attention)."""

    def __init__(self, length: int, width: int, whole: bool) -> None:
        super().__init__()
        self.table, self.whole = nn.Parameter(torch.zeros(2 * length - 1, width)), whole
        row = torch.arange(length)
        self.register_buffer("index", row[:, None] - row[None] + length - 1)

    def forward(self, x: Tensor) -> Tensor:
        t = x.shape[-2]
        if self.whole:
            return x + self.table[self.index[:t, :t].reshape(-1)].view(t, t, -1).mean(0)
        return x + self.table[self.index[0, :t]]


class Numbered(nn.Module):
    """An embedding of a buffer of positions that the length cuts."""

    def __init__(self, length: int, width: int, spelling: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.table, self.spelling = nn.Embedding(length, width), spelling
        self.register_buffer("ids", torch.arange(length).flip(0)[None])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.table(self.spelling(self.ids, x.shape[-2]))[0]
        return out


class Cached(nn.Module):
    """A table that grows when the input is longer than it, as rotary caches do."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.register_buffer("cache", torch.arange(1, length + 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] > self.length:
            self.cache, self.length = torch.arange(1, x.shape[-2] + 1), int(x.shape[-2])
        return x * self.cache[: x.shape[-2], None].to(x.dtype)


class Kept(nn.Module):
    """A table that is made in the first run, and anew where the input has another size."""

    def __init__(self, asks_for_size: bool) -> None:
        super().__init__()
        self.asks_for_size, self.table = asks_for_size, None
        self.size: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[-2]
        if self.table is None or (self.table.shape[0] if self.asks_for_size else self.size) != n:
            self.size, self.table = n, torch.arange(1, n + 1)
        return x * self.table.to(x)[:, None]


MIXERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "square": lambda w, x: w[: x.shape[-2], : x.shape[-2]] @ x,
    "tril of the slice": lambda w, x: w[: x.shape[-2], : x.shape[-2]].tril() @ x,
    "slice of the tril": lambda w, x: w.tril()[: x.shape[-2], : x.shape[-2]] @ x,
    "triu": lambda w, x: w[: x.shape[-2], : x.shape[-2]].triu(x.shape[-2] - 3) @ x,
    "linear": lambda w, x: F.linear(x.mT, w[: x.shape[-2], : x.shape[-2]]).mT,
    "einsum": lambda w, x: torch.einsum("mn,...nd->...md", w[: x.shape[-2], : x.shape[-2]], x),
    "one row": lambda w, x: w[: x.shape[-2], :1] * x + w[:1, : x.shape[-2]].t(),
}


def mixed(fn: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    """A matrix over positions, of which the length takes a corner."""

    def make(pick: Any, x: Tensor) -> nn.Module:
        n = x.shape[-2] + _MORE
        return Own(lambda x, w: fn(w, x), n, n)

    return Operation(make, matrices, plain=False)


def causal(pick: Any, x: Tensor) -> nn.Module:
    """Attention under a mask that the length cuts out of a buffer."""
    n = x.shape[-2] + _MORE

    def fn(x: Tensor, mask: Tensor) -> Tensor:
        t = x.shape[-2]
        return (x @ x.mT).masked_fill(~mask[:t, :t], float("-inf")).softmax(-1) @ x

    return Buffered(fn, torch.ones(n, n, dtype=torch.bool).tril())


SPELLINGS: list[Callable[[Tensor, int], Tensor]] = [
    lambda ids, t: ids[:, :t],
    lambda ids, t: ids.narrow(1, 0, t),
    lambda ids, t: torch.arange(t)[None],
    lambda ids, t: ids[:, -t:].flip(1),
]


def numbered(fn: Callable[[Tensor, int, int], Tensor]) -> Operation:
    """A number that the size of the batch, or of another axis, gives."""

    def make(pick: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
        axis = pick(*range(x.ndim - 1))
        n = x.shape[axis]
        return lambda x: fn(x, x.shape[axis], n)

    return Operation(make, lambda x: floats(x) and x.shape[-1] > 1, plain=False)


# -- numbers that Python makes of a size ---------------------------------------------------------------------------


def of_half(x: Tensor, t: int) -> Tensor:
    return x[..., int(t / 2) :, :] if x.ndim > 2 else x * int(t / 2)


def of_product(x: Tensor, t: int) -> Tensor:
    return x * (int(t * 0.5) + 1)


def of_float(x: Tensor, t: int) -> Tensor:
    return x * 2 ** -float(t) if t < 9 else x


def of_root(x: Tensor, t: int) -> Tensor:
    return x * int(t**0.5)


def of_whole_root(x: Tensor, t: int) -> Tensor:
    return x + math.isqrt(t)


def of_rounding(x: Tensor, t: int) -> Tensor:
    return x * (round(t / 2) + 1) + math.ceil(t / 2)


def converted(pick: Any, x: Tensor) -> nn.Module:
    """What a size gives as a number of Python's own: another function of it, and none of the example's."""
    fn, axis = pick(of_half, of_product, of_float, of_root, of_whole_root, of_rounding), pick(-2, 0)
    return Function(lambda x: fn(x, x.shape[axis]))


def viewed(fn: Callable[[Tensor], Tensor]) -> Operation:
    return Operation(lambda pick, x: fn, floats, plain=False)


def same_but_length(x: Tensor, y: Tensor) -> bool:
    return tokens(x) and tokens(y) and x.shape == y.shape and x.shape[-1] > 1


class Experts(nn.Module):
    """A convolution whose weight is mixed for each example of the batch, which decides how many groups there are."""

    def __init__(self, width: int, groups: int, bias: bool) -> None:
        super().__init__()
        self.route, self.groups, self.width = nn.Linear(width, 2), groups, 2 * groups
        self.weight = nn.Parameter(torch.randn(2, self.width * (width // groups)))
        self.bias = nn.Parameter(torch.randn(2, self.width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        b, c, *positions = x.shape
        routing = self.route(x.mean((2, 3)))
        weight = (routing @ self.weight).view(b * self.width, c // self.groups, 1, 1)
        bias = None if self.bias is None else (routing @ self.bias).view(b * self.width)
        out = F.conv2d(x.reshape(1, b * c, *positions), weight, bias, groups=self.groups * b)
        return out.permute(1, 0, 2, 3).view(b, self.width, *positions)


SIZES: dict[str, Operation] = {
    "view: experts": Operation(
        lambda pick, x: Experts(x.shape[1], pick(1, *[n for n in (2,) if x.shape[1] % 2 == 0]), pick(True, False)),
        images,
        plain=False,
    ),
    **{f"rows: {name}": rowed(fn) for name, fn in ROWS.items()},
    "rows: scales": Operation(scaled_there_and_back, matrices, plain=False),
    "rows: relative": Operation(
        lambda pick, x: Relative(x.shape[-2] + _MORE, x.shape[-1], pick(True, False)), matrices, plain=False
    ),
    "rows: ids": Operation(
        lambda pick, x: Numbered(x.shape[-2] + _MORE, x.shape[-1], pick(*SPELLINGS)), matrices, plain=False
    ),
    "rows: cache": Operation(lambda pick, x: Cached(x.shape[-2]), matrices, plain=False),
    "rows: kept table": Operation(lambda pick, x: Kept(pick(True, False)), matrices, plain=False),
    **{f"number: {name}": numbered(fn) for name, fn in NUMBERS.items()},
    **{f"cut: {name}": cut(fn) for name, fn in CUTS.items()},
    "cut: weight": Operation(sized_weight, lambda x: floats(x) and x.shape[-1] > 1, plain=False),
    **{f"made: {name}": made(fn) for name, fn in MADE.items()},
    "number: converted": Operation(converted, floats, plain=False),
    **{f"view: {name}": viewed(fn) for name, fn in VIEWS.items()},
    **{f"constant: {name}": constant(fn) for name, fn in CONSTANTS.items()},
    **{
        f"join: {name}": Operation(lambda pick, x, y, fn=fn: fn, same_but_length, arity=2, plain=False)
        for name, fn in JOINS.items()
    },
    **{f"mix: {name}": mixed(fn) for name, fn in MIXERS.items()},
    "mix: causal": Operation(causal, matrices, plain=False),
    # an end that takes every length
    "end of all lengths": Operation(
        lambda pick, x: nn.Conv2d(x.shape[1], 2, 1) if images(x) and pick(True, False) else nn.Linear(x.shape[-1], 2),
        floats,
    ),
}
