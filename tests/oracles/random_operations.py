"""The operations that random networks are made of: a table, one line an operation.

An operation is made for the tensors that it will get: `make(pick, *operands)` returns a module or a function of
them. What it leaves open (sizes, axes, flags) it asks `pick(*options)` for, which remembers the answers: a network
is plain data, and shrinks towards the first options. A new rule is fuzzed by a line here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fft, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torchvision import ops


class Unfit(Exception):
    """An operation cannot be made for these operands."""


@dataclass(frozen=True)
class Operation:
    """One line of the table.

    Attributes:
        make: (pick, *operands) -> a module or a function of the operands.
        fits: whether it can be applied to these tensors.
        arity: how many tensors it takes.
        keeps: what `mode="full"` exempts it from, since it is wrapped: "" (nothing), "itself" (an activation, whose
            output has its input's CoB) or "input" (a norm, which sees the original values).
        gives_up: the documented freedom that its rule does not find; "" where it finds all.
        plain: False where its own derivative does not tell what is free: it writes into its input, wraps a part of
            itself, or takes positive numbers only; and where the draws of the complete list are not to change.
    """

    make: Callable[..., Any]
    fits: Callable[..., bool]
    arity: int = 1
    keeps: str = ""
    gives_up: str = ""
    plain: bool = True


class Own(nn.Module):
    """A function of some tensors and of a parameter of its own, used freely."""

    def __init__(self, fn: Callable[..., Any], *shape: int) -> None:
        super().__init__()
        self.fn, self.own = fn, nn.Parameter(torch.zeros(shape))

    def forward(self, *xs: Tensor) -> Any:
        return self.fn(*xs, self.own)


class Function(nn.Module):
    """A function as a module, so that a network can hold it."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *xs: Tensor) -> Any:
        return self.fn(*xs)


class Buffered(nn.Module):
    """A function of some tensors and of a constant integer or boolean tensor."""

    def __init__(self, fn: Callable[..., Any], constant: Tensor) -> None:
        super().__init__()
        self.fn = fn
        self.register_buffer("constant", constant)

    def forward(self, *xs: Tensor) -> Any:
        return self.fn(*xs, self.constant)


class Tied(nn.Module):
    """A function of a tensor and of another layer's weight."""

    def __init__(self, fn: Callable[..., Any], other: nn.Module) -> None:
        super().__init__()
        self.fn, self.other = fn, other

    def forward(self, x: Tensor) -> Any:
        return self.fn(x, self.other.weight)


class Attention(nn.Module):
    """nn.MultiheadAttention of a query and a context."""

    def __init__(
        self, width: int, heads: int, kind: type[nn.MultiheadAttention] = nn.MultiheadAttention, **settings: Any
    ) -> None:
        super().__init__()
        self.attention = kind(width, heads, batch_first=True, **settings)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        return self.attention(x, context, context)[0]


class OwnAttention(nn.MultiheadAttention):
    """A subclass with code of its own, whose forward calls `F.multi_head_attention_forward`."""

    def forward(self, *args: Any, **settings: Any) -> Any:
        return super().forward(*args, **settings)


# -- what tensors an operation takes ------------------------------------------------------------------------------


def floats(*xs: Tensor) -> bool:
    return all(x.is_floating_point() and x.ndim >= 2 for x in xs)


def rank(n: int) -> Callable[..., bool]:
    return lambda *xs: floats(*xs) and xs[0].ndim == n


tokens, images = rank(3), rank(4)


def photographs(x: Tensor) -> bool:
    return images(x) and x.dtype in (torch.float32, torch.float64)  # torchvision knows no other


def alike(*xs: Tensor) -> bool:
    return floats(*xs) and all(x.shape == xs[0].shape for x in xs)


def broadcast(a: Tensor, b: Tensor) -> bool:
    """b has size 1, or none, where it differs from a."""
    return (
        floats(a, b)
        and b.ndim <= a.ndim
        and all(m in (1, n) for n, m in zip(a.shape[::-1], b.shape[::-1], strict=False))
    )


def but_one_axis(a: Tensor, b: Tensor) -> bool:
    return floats(a, b) and a.ndim == b.ndim and sum(n != m for n, m in zip(a.shape, b.shape, strict=True)) <= 1


def contracts(a: Tensor, b: Tensor) -> bool:
    return floats(a, b) and a.ndim == b.ndim and a.shape[:-2] == b.shape[:-2] and a.shape[-1] == b.shape[-2]


def paired(a: Tensor, b: Tensor) -> bool:
    return floats(a, b) and a.shape[:-1] == b.shape[:-1]


def attends(q: Tensor, k: Tensor, v: Tensor) -> bool:
    rows = (q, k, v)
    return floats(*rows) and all(x.ndim == q.ndim >= 3 and x.shape[:-2] == q.shape[:-2] for x in rows) and (
        q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2] >= 2
    )  # fmt: skip


def several(axis: int) -> Callable[[Tensor], bool]:
    return lambda x: floats(x) and x.ndim > axis and x.shape[axis] >= 2


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def an_axis(pick: Any, x: Tensor) -> int:
    """Any axis but the first, which is the batch."""
    return int(pick(*range(1, x.ndim)))


# -- operations that take more than a line --------------------------------------------------------------------------


def convolution(spatial: int, transposed: bool = False, bare: bool = False) -> Callable[..., nn.Module]:
    """A convolution; unless it is bare it has a bias, and meets every position with every tap."""
    layer = getattr(nn, f"Conv{'Transpose' if transposed else ''}{spatial}d")

    def make(pick: Any, x: Tensor) -> nn.Module:
        channels = x.shape[1]
        groups, bias = pick(*divisors(channels)), not bare or pick(True, False)
        cut = transposed and not bare  # its padding cuts away what one of two taps would meet of two positions
        kernel = pick(*(k for k in (1, 2, 3) if bare or k + (cut and k == 2) <= min(x.shape[2:])))
        settings = {"groups": groups, "bias": bias, "stride": 2 if bare else 1, "padding": kernel // 2}
        made: nn.Module = layer(channels, groups * pick(1, 2), kernel, **settings)
        return made

    return make


def reshaped(pick: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Split one axis, or join two neighbours."""
    axis = an_axis(pick, x)
    if axis + 1 < x.ndim and pick(True, False):
        return lambda x: x.flatten(axis, axis + 1)
    if x.ndim > 4:
        raise Unfit
    parts = pick(*divisors(x.shape[axis]))
    return lambda x: x.reshape(*x.shape[:axis], parts, -1, *x.shape[axis + 1 :])


def permuted(pick: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    a, b = an_axis(pick, x), an_axis(pick, x)
    return pick(
        lambda x: x.transpose(a, b),
        lambda x: torch.movedim(x, a, b),
        lambda x: x.permute(0, *reversed(range(1, x.ndim))),
        lambda x: x.mT,
    )


def part(pick: Any, x: Tensor) -> Callable[[Tensor], Any]:
    """Split, or take a part of, one axis."""
    axis = an_axis(pick, x)
    n = x.shape[axis]
    lead = (slice(None),) * axis
    at = pick(*range(n))
    width = pick(*range(1, n + 1))
    return pick(
        lambda x: x.split(width, axis),
        lambda x: x.chunk(2, axis),
        lambda x: x[(*lead, slice(at, None))],
        lambda x: x[(*lead, slice(None, None, 2))],
        lambda x: x.narrow(axis, 0, width),
        lambda x: x.select(axis, at) if x.ndim > 2 else x,
        lambda x: x.unbind(axis)[:2] if x.ndim > 2 else x,
        lambda x: x[(*lead, [at, 0])],
        lambda x: torch.tensor_split(x, 2, axis),
    )


def rearranged(pick: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    axis = an_axis(pick, x)
    return pick(
        lambda x: x.flip(axis),
        lambda x: x.roll(1, axis),
        lambda x: x.repeat(*(2 if i == axis else 1 for i in range(x.ndim))),
        lambda x: x.repeat_interleave(2, axis),
        lambda x: x.unfold(axis, 1, 1).squeeze(-1),
        lambda x: torch.diagonal(x, 0, -2, -1)[:, None],
    )


def padded(pick: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    before, after = pick(0, 1), pick(1, 2)
    axes = pick(*range(1, x.ndim))
    return lambda x: F.pad(x, (before, after) * axes)


def joined(pick: Any, a: Tensor, b: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    axis = next((i for i, (n, m) in enumerate(zip(a.shape, b.shape, strict=True)) if n != m), None)
    axis = an_axis(pick, a) if axis is None else axis
    return lambda a, b: torch.cat([a, b], axis)


def written(pick: Any, x: Tensor, y: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    axis = an_axis(pick, x)
    lead, at = (slice(None),) * axis, pick(*range(x.shape[axis]))

    def write(x: Tensor, y: Tensor) -> Tensor:
        out = x.clone()
        out[(*lead, at)] = y[(*lead, 0)]
        return out

    return write


def added_in_place(pick: Any, x: Tensor, y: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    def fn(x: Tensor, y: Tensor) -> Tensor:
        x = x.clone()
        x[:, :1] += y[:, :1]
        x[..., -1:] *= 0.5
        return x

    return fn


def own(fn: Callable[..., Any], axes: int) -> Callable[..., nn.Module]:
    """A free parameter that varies along as many axes (at most), aligned to the operand."""

    def make(pick: Any, x: Tensor) -> nn.Module:
        kept = {pick(*range(1, x.ndim)) for _ in range(axes)}
        shape = [n if i in kept else 1 for i, n in enumerate(x.shape)]
        return Own(fn, *shape[pick(0, min(kept)) :])

    return make


def multihead(pick: Any, x: Tensor, context: Tensor) -> nn.Module:
    width, other = x.shape[-1], context.shape[-1]
    sizes = {} if width == other and pick(True, False) else {"kdim": other, "vdim": other}
    return Attention(width, pick(*divisors(width)), bias=pick(True, False), add_bias_kv=pick(False, True), **sizes)


def pooled(kind: str, spatial: int) -> Callable[..., nn.Module]:
    def make(pick: Any, x: Tensor) -> nn.Module:
        if pick(False, True):
            return getattr(nn, f"Adaptive{kind}Pool{spatial}d")(pick(1, 2))
        return getattr(nn, f"{kind}Pool{spatial}d")(pick(2, 3), stride=pick(1, 2), padding=pick(0, 1))

    return make


def reduced(fn: Callable[..., Any], least: int = 1) -> Callable[..., Any]:
    """A reduction of one axis, of so many elements or more."""

    def make(pick: Any, x: Tensor) -> Callable[[Tensor], Any]:
        axis = pick(*(i for i in range(1, x.ndim) if x.shape[i] >= least))
        return lambda x: fn(x, axis)

    return make


def again(pick: Any, x: Tensor) -> nn.Module:
    """A layer of the network, once more."""
    return pick(*(m for m, shapes in pick.earlier if shapes == [x.shape]))


def tied(pick: Any, x: Tensor) -> nn.Module:
    """Another layer's weight, as a weight of this one or used freely."""
    fits = [m for m, _ in pick.earlier if isinstance(m, nn.Linear) and x.shape[-1] in m.weight.shape]
    other = pick(*fits)
    ways = [lambda x, w: x @ w] if x.shape[-1] == other.weight.shape[0] else []
    ways += [lambda x, w: F.linear(x, w)] if x.shape[-1] == other.weight.shape[1] else []
    ways += [lambda x, w: F.linear(x, w.t())] if x.shape[-1] == other.weight.shape[0] else []
    return Tied(pick(*ways), other)


def norm(layer: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return lambda pick, x: layer(x.shape[1], affine=pick(True, False))


def pointwise(fn: Callable[[Tensor], Tensor], keeps: str = "itself", **settings: Any) -> Operation:
    return Operation(lambda pick, x: fn, floats, keeps=keeps, **settings)


def binary(fn: Callable[..., Tensor], fits: Callable[..., bool] = alike, **settings: Any) -> Operation:
    return Operation(lambda pick, *xs: fn, fits, arity=2, **settings)


def standardised(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution whose weight is normalised by output channel, as NFNet's."""
    rows = weight.reshape(1, weight.shape[0], -1)
    return F.conv2d(x, F.batch_norm(rows, None, None, training=True, eps=0.1).reshape_as(weight))


def set_first(x: Tensor) -> Tensor:
    x[:, 0] = 0.0
    return x


def zoomed(x: Tensor) -> Tensor:
    grid = F.affine_grid(torch.eye(2, 3, dtype=x.dtype).expand(x.shape[0], 2, 3) * 0.75, list(x.shape))
    return F.grid_sample(x, grid)


def zero_padded(pick: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    axis = pick(1, -1)
    return lambda x: torch.cat([x, torch.zeros_like(x.narrow(axis, 0, 1))], axis)


def masked(pick: Any, x: Tensor) -> nn.Module:
    mask = torch.arange(x.shape[-1]) % 2 == pick(1, 0)
    return Buffered(lambda x, mask: x.masked_fill(mask, 0.0), mask)


def chosen(pick: Any, x: Tensor, y: Tensor) -> nn.Module:
    mask = torch.arange(x.shape[-1]) % 2 == pick(0, 1)
    return Buffered(lambda x, y, mask: torch.where(mask, x, y), mask)


class LookedUp(nn.Module):
    """An embedding of constant indices, added to a tensor."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(5, width)
        self.register_buffer("ids", torch.arange(rows) % 5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table(self.ids)


class Bags(nn.Module):
    """Bags of an embedding's rows, weighted or not, added to a tensor."""

    def __init__(self, rows: int, width: int, mode: str, weighted: bool, functional: bool) -> None:
        super().__init__()
        self.table, self.functional = nn.EmbeddingBag(5, width, mode=mode), functional
        self.register_buffer("ids", torch.arange(2 * rows).view(rows, 2) % 5)
        self.register_buffer("weights", 0.5 ** self.ids.float() if weighted else None)

    def forward(self, x: Tensor) -> Tensor:
        weights = None if self.weights is None else self.weights.to(x.dtype)
        if self.functional:
            return x + F.embedding_bag(self.ids, self.table.weight, mode=self.table.mode, per_sample_weights=weights)
        return x + self.table(self.ids, per_sample_weights=weights)


def bagged(functional: bool) -> Any:
    def make(pick: Any, x: Tensor) -> nn.Module:
        mode = pick("mean", "sum", "max")
        return Bags(x.shape[-2], x.shape[-1], mode, mode == "sum" and pick(False, True), functional)

    return make


class Deformed(nn.Module):
    """A deformable convolution at offsets and under a mask of its own making."""

    def __init__(self, channels: int, out: int, groups: int, masked: bool) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(channels, 8, 2, padding="same")
        self.mask = nn.Conv2d(channels, 4, 2, padding="same") if masked else None
        self.layer = ops.DeformConv2d(channels, out * groups, 2, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 1, 0, 1))
        offsets, mask = self.offsets(x), None if self.mask is None else self.mask(x).sigmoid()
        return self.layer(x[..., :-1, :-1], offsets, mask)


def regions(x: Tensor) -> Tensor:
    box = torch.tensor([[0.0, 0.25, 1.75, 1.5]], dtype=x.dtype)
    return ops.roi_align(x, [box] * len(x), (2, 1), sampling_ratio=2)


class Dropped(nn.Module):
    """Halves samples or leaves them, in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand(x.shape[0], *[1] * (x.ndim - 1)).round().add(1) if self.training else x


class Swish(torch.autograd.Function):
    """An activation that brings its own backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return grad * x.sigmoid() * (1 + x * (1 - x.sigmoid()))


class Run(nn.Module):
    """The output of a recurrent layer, without its states."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)[0]
        return out


class RunPacked(Run):
    """The same over sequences of several lengths, beside those themselves."""

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.arange(x.shape[0]) % x.shape[1] + 1
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        results = (self.layer(packed)[0], packed)
        return torch.cat([pad_packed_sequence(r, batch_first=True, total_length=x.shape[1])[0] for r in results], -1)


class OwnLstm(nn.LSTM):
    """A subclass with code of its own, whose forward calls `torch.lstm`."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        return super().forward(input, hx)


def recurrent(kind: Callable[..., nn.RNNBase]) -> Operation:
    def make(pick: Any, x: Tensor) -> nn.Module:
        return Run(kind(x.shape[-1], pick(3, 4), pick(1, 2), batch_first=True, bidirectional=pick(False, True)))

    return Operation(make, lambda x: tokens(x) and x.shape[1] >= 2)


class Steps(nn.Module):
    """Two steps of a recurrent cell, as a layer or as torch's function of its weights."""

    def __init__(self, cell: nn.RNNCellBase, function: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.cell, self.function = cell, function

    def forward(self, x: Tensor) -> Tensor:
        cell, hidden = self.cell, []
        state: Any = None
        for step in (x[:, 0], x[:, 1]):
            if self.function is None:
                state = cell(step, state)
            else:
                zeros = step.new_zeros(step.shape[0], cell.hidden_size)
                start = (zeros, zeros) if self.function is torch.lstm_cell else zeros
                weights = cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh
                state = self.function(step, start if state is None else state, *weights)
            hidden.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(hidden, 1)


_CELLS = ((nn.LSTMCell, torch.lstm_cell), (nn.GRUCell, torch.gru_cell), (nn.RNNCell, torch.rnn_tanh_cell))


def steps(as_function: bool) -> Operation:
    def make(pick: Any, x: Tensor) -> nn.Module:
        kind, function = pick(*_CELLS)
        return Steps(kind(x.shape[-1], pick(3, 4)), function if as_function else None)

    return Operation(make, lambda x: tokens(x) and x.shape[1] >= 2, plain=False)


# Documented freedom that is given up (docs/reliability.md).
_POOLS = "the CoB is constant over all positions, also where windows keep them apart"
_TAPS = "the CoB is constant over all positions, also where no bias ties them, a tap meets one, or two inputs cancel"
_POWER = "a power law with a broken exponent is wrapped like any activation, or pinned"
_PRODUCT = "a parameter that is used freely has one factor an axis"
_COMPARED = "a comparison pins, though one with 0 needs the sign only"
_CROSS = "one weight that projects queries and keys needs one CoB for both inputs"
_DIRECTION = "the direction of a weight norm keeps its scale, though its length is divided away"
_MASK = "the values of a mask are not looked at: what it chooses from shares a CoB, also where it hides"
_ROWS = "the indices of an embedding are not looked at: its rows share a CoB"
_ZEROS = "zeros that are contracted fit any CoB, too: settled, they need an equation an axis instead of one a term"
_ORDER = "what is put in order shares a CoB, though any that keeps the order at one point would do there"
_INDEX = "an index that scatters is not looked at: all positions that it may pick share a CoB"
_SPECTRUM = "the CoB is constant over what a transform mixes, also where its way back or its zeros keep it apart"
_LENGTH = "L2 normalisation pins in weights mode, though it forgets a common scale"


def index_added(pick: Any, x: Tensor, y: Tensor) -> Any:
    axis = pick(1, -1)
    return lambda x, y: x.index_add(axis, torch.tensor([0]), y.narrow(axis, 0, 1))


def gathered(reduce: str) -> Any:
    """A reduction of messages, each along an edge of a ring."""

    def reduced(pick: Any, x: Tensor, y: Tensor) -> Any:
        axis = pick(1, -1)

        def fn(x: Tensor, y: Tensor) -> Tensor:
            shape = [1] * x.ndim
            shape[axis] = x.shape[axis]
            ring = torch.arange(int(x.shape[axis])).roll(1).view(shape).expand(x.shape)
            return x.scatter_add(axis, ring, y) if reduce == "add" else x.scatter_reduce(axis, ring, y, reduce)

        return fn

    return reduced


def unpooled(spatial: int) -> Callable[..., Any]:
    """The largest of each window, back where it was."""
    window = (1, 2, 2) if spatial == 3 else 2

    def fn(x: Tensor) -> Tensor:
        x = x[:, :, None] if spatial == 3 else x
        found, where = getattr(F, f"max_pool{spatial}d")(x, window, return_indices=True)
        back: Tensor = getattr(F, f"max_unpool{spatial}d")(found, where, window, output_size=x.shape)
        return back[:, :, 0] if spatial == 3 else back

    return lambda pick, x: fn


def sparse_of(x: Tensor) -> Tensor:
    """A tensor of which the rows are stored in another order."""
    rows = torch.arange(int(x.shape[0])).flip(0)
    return torch.sparse_coo_tensor(rows[None], x, x.shape)


def transforms(*xs: Tensor) -> bool:
    """torch has no Fourier transform of half precision here."""
    return alike(*xs) and xs[0].dtype in (torch.float32, torch.float64)


def spectral(pick: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Over one axis: there and back, or a part of what is there."""
    axis, n = an_axis(pick, x), x.shape[-1]
    return pick(
        lambda x: fft.irfft(fft.rfft(x), n=n),
        lambda x: fft.fft(x, dim=axis).real,
        lambda x: fft.ifft(x, dim=axis).imag,
        lambda x: fft.hfft(fft.ihfft(x), n=n),
    )


def spectral2(pick: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Over the last two axes."""
    sizes = tuple(x.shape[-2:])
    return pick(
        lambda x: fft.irfft2(fft.rfft2(x, norm="ortho"), s=sizes, norm="ortho"),
        lambda x: fft.hfft2(fft.ihfft2(x), s=sizes),
    )


def spectral_all(pick: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Over all axes but the first."""
    axes, sizes = tuple(range(1, x.ndim)), tuple(x.shape[1:])
    return pick(
        lambda x: fft.fftshift(fft.fftn(x, dim=axes), axes).abs(),
        lambda x: fft.irfftn(fft.rfftn(x, s=sizes), s=sizes),
    )


def filtered(pick: Any, x: Tensor) -> nn.Module:
    """Frequencies times a complex weight, as in spectral networks."""
    n = x.shape[-1]
    weight = (pick(1, x.shape[1]), *(1,) * (x.ndim - 3), n // 2 + 1, 2) if x.ndim > 2 else (n // 2 + 1, 2)
    return Own(lambda x, w: fft.irfft(fft.rfft(x) * torch.view_as_complex(w), n=n), *weight)


def turned(pick: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Pairs of neighbours, turned by an angle as rotary embeddings are."""

    def turn(x: Tensor) -> Tensor:
        z = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        angles = torch.arange(int(z.shape[-1])).to(x)
        return torch.view_as_real(z * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    return turn


def short_time(x: Tensor) -> Tensor:
    frames = torch.stft(x, 2, 1, window=torch.ones(2, dtype=x.dtype), return_complex=True)
    return torch.istft(2 * frames, 2, 1, window=torch.ones(2, dtype=x.dtype)) + frames.imag[:, 0, : x.shape[-1]]


def into_zeros(x: Tensor) -> Tensor:
    made = torch.zeros(x.shape[0], x.shape[1] + 1, *(int(n) for n in x.shape[2:]), dtype=x.dtype)
    made[:, 1:] = x
    return made


def summed_up(x: Tensor) -> Tensor:
    total = torch.zeros(tuple(int(n) for n in x.shape), dtype=x.dtype)
    for _ in range(2):
        total += x
    return total


def twice_indexed(x: Tensor) -> Tensor:
    index = torch.arange(int(x.shape[1]))
    once = x[:, index]
    index += 1
    index %= x.shape[1]
    return once + x[:, index]


def twice_scaled(x: Tensor) -> Tensor:
    constant = torch.ones(int(x.shape[-1]), dtype=x.dtype)
    once = x * constant
    constant += 1
    return once + x * constant


OPERATIONS: dict[str, Operation] = {
    # weighted
    "Linear": Operation(lambda pick, x: nn.Linear(x.shape[-1], pick(2, 1, 3, 4)), floats),
    "bare Linear": Operation(
        lambda pick, x: nn.Linear(x.shape[-1], pick(2, 1, 3, 4), bias=False), floats, gives_up=_TAPS
    ),
    "Conv1d": Operation(convolution(1), tokens),
    "Conv2d": Operation(convolution(2), images),
    "ConvTranspose1d": Operation(convolution(1, transposed=True), tokens),
    "ConvTranspose2d": Operation(convolution(2, transposed=True), images),
    "bare Conv1d": Operation(convolution(1, bare=True), tokens, gives_up=_TAPS),
    "bare Conv2d": Operation(convolution(2, bare=True), images, gives_up=_TAPS),
    "bare ConvTranspose2d": Operation(convolution(2, transposed=True, bare=True), images, gives_up=_TAPS),
    "weight norm": Operation(
        lambda pick, x: nn.utils.parametrizations.weight_norm(nn.Linear(x.shape[-1], pick(2, 3)), dim=pick(0, 1)),
        floats,
        gives_up=_DIRECTION,
        plain=False,
    ),
    "Bilinear": Operation(
        lambda pick, x, y: nn.Bilinear(x.shape[-1], y.shape[-1], pick(2, 3), bias=pick(True, False)),
        paired,
        arity=2,
        gives_up=_TAPS,
    ),
    "MultiheadAttention": Operation(lambda pick, x: multihead(pick, x, x), lambda x: tokens(x) and x.shape[1] >= 2),
    "cross MultiheadAttention": Operation(
        multihead,
        lambda x, y: tokens(x) and tokens(y) and x.shape[0] == y.shape[0] and y.shape[1] >= 2,
        arity=2,
        gives_up=_CROSS,
    ),
    "multi_head_attention_forward": Operation(
        lambda pick, x: Attention(x.shape[-1], pick(*divisors(x.shape[-1])), OwnAttention, bias=pick(True, False)),
        lambda x: tokens(x) and x.shape[1] >= 2,
    ),
    "LSTM": recurrent(nn.LSTM),
    "GRU": recurrent(nn.GRU),
    "lstm": recurrent(OwnLstm),
    # Not in the complete list, whose fixed draws would be others (docs/reliability.md).
    "RNN of ReLUs": replace(recurrent(functools.partial(nn.RNN, nonlinearity="relu")), plain=False),
    "recurrent cell": steps(as_function=False),
    "recurrent cell function": steps(as_function=True),
    "packed GRU": Operation(
        lambda pick, x: RunPacked(nn.GRU(x.shape[-1], pick(3, 4), batch_first=True)), tokens, plain=False
    ),
    "Embedding": Operation(lambda pick, x: LookedUp(x.shape[-2], x.shape[-1]), floats, gives_up=_ROWS),
    "EmbeddingBag": Operation(bagged(functional=False), floats, gives_up=_ROWS),
    "embedding_bag": Operation(bagged(functional=True), floats, gives_up=_ROWS),
    "DeformConv2d": Operation(
        lambda pick, x: Deformed(x.shape[1], pick(2, 3), pick(*divisors(x.shape[1])), pick(False, True)),
        photographs,
        gives_up=_TAPS,
        plain=False,
    ),
    "again": Operation(again, floats),
    "tied": Operation(tied, floats),
    # bilinear
    "mul": binary(lambda x, y: x * y, broadcast),
    "div": binary(lambda x, y: x / y, broadcast),
    "square": pointwise(torch.square, keeps=""),
    "power": Operation(lambda pick, x: pick(lambda x: x**2, lambda x: x.pow(3)), floats),
    "matmul": binary(lambda x, y: x @ y, contracts),
    "matmul transposed": binary(lambda x, y: x @ y.transpose(-2, -1), lambda x, y: floats(x, y) and contracts(x, y.mT)),
    "bmm": binary(torch.bmm, lambda x, y: tokens(x) and tokens(y) and contracts(x, y)),
    "einsum": binary(
        lambda x, y: torch.einsum("bnc,bmc->bnm", x, y), lambda x, y: tokens(x) and tokens(y) and contracts(x, y.mT)
    ),
    "einsum channels": binary(lambda x, y: torch.einsum("b...c,b...c->b...", x, y)[..., None], alike),
    "tensordot": binary(
        lambda x, y: torch.tensordot(x, y[0], ([-1], [0])), lambda x, y: tokens(x) and tokens(y) and contracts(x, y)
    ),
    "inner": binary(
        lambda x, y: torch.inner(x, y[0]), lambda x, y: tokens(x) and tokens(y) and x.shape[-1] == y.shape[-1]
    ),
    "solve": binary(
        lambda x, y: torch.linalg.solve(x @ x.mT + 9 * torch.eye(x.shape[1]), y),
        lambda x, y: tokens(x) and tokens(y) and x.shape[:2] == y.shape[:2],
    ),
    "addcmul": Operation(lambda pick, *xs: torch.addcmul, alike, arity=3),
    "baddbmm": Operation(
        lambda pick, *xs: torch.baddbmm,
        lambda x, a, b: tokens(x) and tokens(a) and contracts(a, b) and x.shape == (*a.shape[:2], b.shape[2]),
        arity=3,
    ),
    "attention": Operation(lambda pick, *xs: F.scaled_dot_product_attention, attends, arity=3),
    "var_mean": Operation(
        reduced(lambda x, axis: torch.stack(torch.var_mean(x, axis, keepdim=True)).prod(0), 2), floats, plain=False
    ),
    "std_mean": Operation(
        reduced(lambda x, axis: torch.stack(torch.std_mean(x, axis, keepdim=True)).prod(0), 2), floats, plain=False
    ),
    "outer": binary(lambda x, y: torch.outer(x[0].flatten(), y[..., 0].flatten())[None], floats, plain=False),
    "cross": binary(
        lambda x, y: torch.linalg.cross(x[:, :3], y[:, :3], dim=1),
        lambda x, y: alike(x, y) and x.shape[1] >= 3,
        gives_up=_TAPS,
    ),
    "prod": Operation(
        reduced(lambda x, axis: x.narrow(axis, 0, 2).prod(axis, keepdim=True), 2), floats, gives_up=_TAPS
    ),
    "copy_": binary(lambda x, y: (x * 1).copy_(y) + y, plain=False),
    "var": Operation(reduced(lambda x, axis: x.var(axis, keepdim=True), 2), floats),
    "reciprocal": pointwise(torch.reciprocal, keeps=""),
    # equivariant
    "dropout": Operation(lambda pick, x: nn.Dropout(0.5), floats),
    "identity": Operation(lambda pick, x: pick(nn.Identity(), lambda x: x.contiguous(), lambda x: -x), floats),
    "scaling": pointwise(lambda x: 0.5 * x, keeps=""),
    "mean": Operation(reduced(lambda x, axis: x.mean(axis, keepdim=True)), floats),
    "mean, axis dropped": Operation(lambda pick, x: lambda x: x.mean(-1), lambda x: floats(x) and x.ndim > 2),
    "sum": Operation(reduced(lambda x, axis: x.sum(dim=axis, keepdim=True)), floats),
    "cumsum": Operation(reduced(torch.cumsum), floats),
    "diff": Operation(reduced(lambda x, axis: x.diff(dim=axis), 2), floats, gives_up=_POOLS),
    "AvgPool1d": Operation(pooled("Avg", 1), tokens, gives_up=_POOLS),
    "AvgPool2d": Operation(pooled("Avg", 2), images, gives_up=_POOLS),
    "avg_pool3d": Operation(
        lambda pick, x: lambda x: F.avg_pool3d(x[:, :, None], (1, 2, 2), 1, (0, 1, 1))[:, :, 0], images, gives_up=_POOLS
    ),
    "fold": Operation(
        lambda pick, x: lambda x: F.fold(F.unfold(x, 2, padding=1), x.shape[-2:], 2, padding=1), images, gives_up=_POOLS
    ),
    "interpolate": Operation(
        lambda pick, x: pick(nn.Upsample(scale_factor=2), nn.UpsamplingBilinear2d(scale_factor=2)),
        images,
        gives_up=_POOLS,
    ),
    "roi_align": Operation(lambda pick, x: regions, photographs, gives_up=_POOLS, plain=False),
    "grid_sample": Operation(lambda pick, x: zoomed, images, gives_up=_POOLS),
    # homogeneous
    "relu": Operation(lambda pick, x: pick(nn.ReLU(), F.relu, lambda x: x.relu()), floats),
    "leaky_relu": Operation(lambda pick, x: nn.LeakyReLU(0.25), floats),
    "abs": pointwise(torch.abs, keeps=""),
    "prelu": Operation(lambda pick, x: nn.PReLU(pick(1, x.shape[1])), floats),
    "MaxPool1d": Operation(pooled("Max", 1), tokens, gives_up=_POOLS),
    "MaxPool2d": Operation(pooled("Max", 2), images, gives_up=_POOLS),
    "max_unpool1d": Operation(unpooled(1), lambda x: tokens(x) and x.shape[-1] > 1, gives_up=_POOLS),
    "max_unpool2d": Operation(unpooled(2), lambda x: images(x) and min(x.shape[-2:]) > 1, gives_up=_POOLS),
    "max_unpool3d": Operation(unpooled(3), lambda x: images(x) and min(x.shape[-2:]) > 1, gives_up=_POOLS),
    "max_pool3d": Operation(
        lambda pick, x: lambda x: F.max_pool3d(x[:, :, None], (1, 2, 2), 1, (0, 1, 1))[:, :, 0], images, gives_up=_POOLS
    ),
    "norm": Operation(reduced(lambda x, axis: x.norm(dim=axis, keepdim=True)), several(1)),
    "std": Operation(reduced(lambda x, axis: x.std(axis, keepdim=True), 2), floats),
    "max": Operation(reduced(lambda x, axis: x.max(axis, keepdim=True)[0]), floats),
    "median": Operation(  # of an expanded tensor, torch gives what happens to be in memory
        reduced(lambda x, axis: x.contiguous().median(axis, keepdim=True)[0]), floats, plain=False
    ),
    "cummax": Operation(reduced(lambda x, axis: x.cummax(axis)[0]), floats, plain=False),
    "amax": Operation(reduced(lambda x, axis: x.amax(axis, keepdim=True)), floats),
    "maximum": binary(torch.maximum),
    "hypot": binary(torch.hypot, gives_up="a sign of each operand alone: it is even in both"),
    # joining
    "add": binary(lambda x, y: x + y, broadcast),
    "sub": binary(lambda x, y: x - y, broadcast),
    "add constant": pointwise(lambda x: x + 0.5),
    "where": Operation(chosen, alike, arity=2, gives_up=_MASK),
    "where compared": binary(lambda x, y: torch.where(x > 0, y, 0.0), gives_up=_COMPARED),
    "masked_fill": Operation(masked, floats, gives_up=_MASK),
    "lerp": binary(lambda x, y: torch.lerp(x, y, 0.25)),
    # movement
    "reshape": Operation(reshaped, floats),
    "permute": Operation(permuted, floats),
    "mT": Operation(lambda pick, x: lambda x: x.mT, lambda x: floats(x) and x.ndim > 2),
    "broadcast_tensors": Operation(lambda pick, x: lambda x: torch.add(*torch.broadcast_tensors(x, x[:, :1])), floats),
    "expand": Operation(
        lambda pick, x: lambda x: x[:, None].expand(-1, 2, *x.shape[1:]), lambda x: floats(x) and x.ndim < 5
    ),
    "part": Operation(part, floats),
    "rearrange": Operation(rearranged, floats),
    "tril": Operation(lambda pick, x: lambda x: x.tril(), floats, gives_up=_ZEROS),
    "pad": Operation(padded, floats, gives_up=_ZEROS),
    "ZeroPad2d": Operation(lambda pick, x: nn.ZeroPad2d(1), images, gives_up=_ZEROS),
    "ReflectionPad1d": Operation(lambda pick, x: nn.ReflectionPad1d((1, 0)), lambda x: tokens(x) and x.shape[-1] > 1),
    "pixel_shuffle": Operation(lambda pick, x: nn.PixelShuffle(2), lambda x: images(x) and x.shape[1] % 4 == 0),
    "unfold": Operation(lambda pick, x: nn.Unfold(2, padding=1), images, gives_up=_ZEROS),
    "cat": Operation(joined, but_one_axis, arity=2),
    "stack": binary(lambda x, y: torch.stack([x, y], 1), lambda x, y: alike(x, y) and x.ndim < 5),
    "write": Operation(written, alike, arity=2),
    "augmented write": Operation(added_in_place, alike, arity=2),
    "slice_scatter": binary(lambda x, y: torch.slice_scatter(x, y[:, :1], 1, 0, 1)),
    "select_scatter": binary(lambda x, y: torch.select_scatter(x, y[:, 0], 1, 0)),
    "diagonal_scatter": binary(lambda x, y: torch.diagonal_scatter(x, y.diagonal(0, 0, 1), 0, 0, 1)),
    "index_copy": binary(lambda x, y: x.index_copy(1, torch.tensor([0]), y[:, :1])),
    "scatter": binary(
        lambda x, y: x.scatter(1, torch.zeros_like(y[:, :1], dtype=torch.long), y[:, :1]), gives_up=_INDEX
    ),
    "index_fill": Operation(lambda pick, x: lambda x: x.index_fill(1, torch.tensor([0]), 0.0), floats, gives_up=_ZEROS),
    "index_add": Operation(index_added, alike, arity=2, gives_up=_INDEX),
    "fft": Operation(spectral, transforms, gives_up=_SPECTRUM),
    "fft2": Operation(spectral2, lambda x: transforms(x) and x.ndim > 2, gives_up=_SPECTRUM),
    "fftn": Operation(spectral_all, transforms, gives_up=_SPECTRUM),
    "fftshift": Operation(
        lambda pick, x: lambda x: fft.ifftshift(torch.complex(x, 2 * x), 1).imag, transforms, gives_up=_SPECTRUM
    ),
    "polar": Operation(
        lambda pick, x: lambda x: torch.polar(x, torch.arange(int(x.shape[-1])).to(x)).real + x,
        transforms,
        gives_up=_SPECTRUM,
        plain=False,  # torch takes its first argument for positive, and gives another derivative where it is not
    ),
    "filter": Operation(filtered, transforms, gives_up=_SPECTRUM),
    "rotary": Operation(turned, lambda x: transforms(x) and x.shape[-1] % 2 == 0, gives_up=_SPECTRUM),
    "stft": Operation(
        lambda pick, x: short_time, lambda x: transforms(x) and x.ndim == 2 and x.shape[-1] > 2, gives_up=_SPECTRUM
    ),
    "complex": binary(lambda x, y: torch.complex(x, y).abs(), transforms, gives_up=_SPECTRUM),
    "complex product": binary(
        lambda x, y: (torch.complex(x, y) * torch.complex(y, x).conj_physical()).imag, transforms, gives_up=_SPECTRUM
    ),
    "sparse_coo_tensor": Operation(
        lambda pick, x: lambda x: sparse_of(x).to_dense(),
        transforms,
        gives_up=_INDEX,
        plain=False,  # torch takes no derivative of all directions at once through sparse tensors
    ),
    "sparse sum": Operation(
        lambda pick, x: lambda x: torch.sparse.sum(sparse_of(x), -1).to_dense()[:, None],
        lambda x: transforms(x) and x.ndim == 2,
        gives_up=_INDEX,
        plain=False,
    ),
    "scatter_add": Operation(gathered("add"), alike, arity=2, gives_up=_INDEX),
    "scatter_reduce": Operation(gathered("mean"), alike, arity=2, gives_up=_INDEX),
    # ordering
    "above 0": Operation(lambda pick, x: lambda x: x * (x > 0), floats),
    "largest": Operation(lambda pick, x: lambda x: x * (x == x.amax(-1, keepdim=True)), floats, gives_up=_ORDER),
    "argmax": Operation(lambda pick, x: lambda x: x.gather(-1, x.argmax(-1, keepdim=True)), floats, gives_up=_ORDER),
    "argsort": Operation(lambda pick, x: lambda x: x.gather(1, x.argsort(dim=1, stable=True)), floats, gives_up=_ORDER),
    "sort": Operation(reduced(lambda x, axis: x.sort(axis).values), floats, gives_up=_ORDER),
    "topk": Operation(reduced(lambda x, axis: x.topk(1, axis).values), floats, gives_up=_ORDER),
    "kthvalue": Operation(reduced(lambda x, axis: x.kthvalue(1, axis, True).values), floats, gives_up=_ORDER),
    "mode": Operation(reduced(lambda x, axis: x.mode(axis, True).values), floats, gives_up=_ORDER),
    "heaviside": Operation(lambda pick, x: lambda x: x * torch.heaviside(x, x.new_ones(())), floats, plain=False),
    "quantile": Operation(lambda pick, x: lambda x: x.quantile(0.4, -1, True), transforms, gives_up=_ORDER),
    "index_reduce": binary(lambda x, y: x.index_reduce(1, torch.tensor([0]), y[:, :1], "amax"), plain=False),
    # norm
    "BatchNorm1d": Operation(norm(nn.BatchNorm1d), lambda x: floats(x) and x.ndim <= 3, keeps="input"),
    "BatchNorm2d": Operation(norm(nn.BatchNorm2d), images, keeps="input"),
    "LayerNorm": Operation(
        lambda pick, x: nn.LayerNorm(x.shape[-1], eps=0.1, elementwise_affine=pick(True, False)),
        lambda x: floats(x) and x.shape[-1] > 1,
        keeps="input",
    ),
    "RMSNorm": Operation(lambda pick, x: nn.RMSNorm(x.shape[-1], eps=0.1), floats, keeps="input"),
    "GroupNorm": Operation(
        lambda pick, x: nn.GroupNorm(
            pick(*(d for d in divisors(x.shape[1]) if x[0].numel() > d)), x.shape[1], eps=0.1, affine=pick(True, False)
        ),
        lambda x: floats(x) and x.ndim > 2 and x[0].numel() > 1,  # one value alone is normalised to 0
        keeps="input",
    ),
    "InstanceNorm2d": Operation(
        lambda pick, x: nn.InstanceNorm2d(x.shape[1], eps=0.1, affine=pick(True, False)),
        lambda x: images(x) and x[0, 0].numel() > 1,
        keeps="input",
    ),
    "normalize": Operation(lambda pick, x: lambda x: F.normalize(x, dim=-1), floats, keeps="input", gives_up=_LENGTH),
    "standardised weight": Operation(
        lambda pick, x: Own(standardised, 2, x.shape[1], 1, 1),
        lambda x: images(x) and x.shape[1] > 1,
        plain=False,
    ),
    # odd and pointwise
    "tanh": Operation(lambda pick, x: nn.Tanh(), floats, keeps="itself"),
    "sin": pointwise(torch.sin),
    "softshrink": pointwise(F.softshrink),
    "hardtanh": Operation(lambda pick, x: pick(nn.Hardtanh(), nn.Hardtanh(-0.5, 1.0)), floats, keeps="itself"),
    "clamp_min": pointwise(lambda x: x.clamp_min(-0.5)),
    "clamp_max": pointwise(lambda x: x.clamp_max(0.5)),
    "tan": pointwise(torch.tan),
    "clamp": Operation(
        lambda pick, x: pick(lambda x: x.clamp(-1.0, 1.0), lambda x: x.clamp(min=-0.5)), floats, keeps="itself"
    ),
    "gelu": Operation(lambda pick, x: pick(nn.GELU(), F.gelu), floats, keeps="itself"),
    "silu": Operation(lambda pick, x: nn.SiLU(), floats, keeps="itself"),
    "sigmoid": pointwise(torch.sigmoid),
    "glu": Operation(
        lambda pick, x: pick(nn.GLU(), F.glu), lambda x: floats(x) and x.shape[-1] % 2 == 0, keeps="itself", plain=False
    ),
    "relu6": Operation(lambda pick, x: nn.ReLU6(), floats, keeps="itself"),
    "hardswish": pointwise(F.hardswish),
    "elu": pointwise(F.elu),
    "softplus": pointwise(F.softplus),
    "exp": pointwise(torch.exp),
    "sqrt": pointwise(torch.sqrt, gives_up=_POWER, plain=False),
    "power 0.5": pointwise(lambda x: x**0.5, gives_up=_POWER, plain=False),
    # called as they are
    "drop path": Operation(lambda pick, x: Dropped(), floats),
    "autograd function": pointwise(Swish.apply, plain=False),
    # opaque
    "softmax": Operation(lambda pick, x: lambda x: x.softmax(-1), lambda x: floats(x) and x.shape[-1] > 1),
    "floor divide": pointwise(lambda x: x // 2, plain=False),
    "logsumexp": Operation(
        lambda pick, x: lambda x: x.logsumexp(-1, keepdim=True), lambda x: floats(x) and x.shape[-1] > 1
    ),
    "local response norm": Operation(lambda pick, x: nn.LocalResponseNorm(2), tokens, keeps="input"),
    "diagonal": Operation(
        lambda pick, x: lambda x: torch.diagonal(x, 0, -2, -1)[:, None], lambda x: floats(x) and x.ndim > 3
    ),
    "log_softmax": Operation(lambda pick, x: nn.LogSoftmax(1), several(1)),
    # parameters used freely, and tensors made from nothing
    "add vector": Operation(own(torch.add, 1), floats),
    "add parameter": Operation(own(torch.add, 3), floats, gives_up=_PRODUCT),
    "mul vector": Operation(own(torch.mul, 1), floats),
    "mul parameter": Operation(own(torch.mul, 3), floats, gives_up=_PRODUCT),
    "class token": Operation(
        lambda pick, x: Own(lambda x, w: torch.cat([w.expand(x.shape[0], -1, -1), x], 1), 1, 1, x.shape[-1]), tokens
    ),
    "zeros": Operation(zero_padded, floats, gives_up=_ZEROS),
    "ones": pointwise(lambda x: torch.cat([x, torch.ones_like(x[:, :1])], 1), keeps=""),
    "full": pointwise(lambda x: torch.cat([torch.full(x[:, :1].shape, 0.5, dtype=x.dtype), x], 1), keeps=""),
    "fill": pointwise(lambda x: torch.cat([x, x[:, :1].clone().fill_(1.5)], 1), keeps=""),
    "isfinite": pointwise(lambda x: torch.where(x.isfinite(), x, 0.0), keeps=""),
    # made by the network itself, and written to
    "written zeros": Operation(lambda pick, x: into_zeros, floats, gives_up=_ZEROS, plain=False),
    "growing sum": Operation(lambda pick, x: summed_up, floats, plain=False),
    "moving index": Operation(lambda pick, x: twice_indexed, floats, plain=False),
    "growing constant": Operation(lambda pick, x: twice_scaled, floats, plain=False),
    # in place
    "relu_": Operation(lambda pick, x: pick(nn.ReLU(inplace=True), torch.relu_), floats, plain=False),
    "mul_": Operation(lambda pick, x: lambda x: x.mul_(0.5), floats, plain=False),
    "add_": Operation(lambda pick, x, y: lambda x, y: x.add_(y), alike, arity=2, plain=False),
    "setitem": Operation(lambda pick, x: set_first, floats, plain=False),
    "silu_": Operation(lambda pick, x: nn.SiLU(inplace=True), floats, plain=False),
    # the end of a branch
    "head": Operation(lambda pick, x: nn.Sequential(nn.Flatten(1), nn.Linear(x[0].numel(), pick(2, 1, 3))), floats),
}
