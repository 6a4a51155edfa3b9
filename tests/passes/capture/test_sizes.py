"""Sizes: the graph computes what the model computes at every size, or the emitted network refuses by its own error.

Each program is planned at one size and run at others, without any change of basis: what differs was baked in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, arange, full, nn, zeros

import fxteleport as ft

TABLE = torch.linspace(0, 1, 64).reshape(16, 4)
SIZES = [(2, 5), (3, 5), (1, 5), (2, 7), (4, 3), (1, 1), (1, 16)]


class Net(nn.Module):
    """Linear -> a program on [batch, length, 4] -> Linear."""

    def __init__(self, program: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.program, self.first, self.last, self.names = program, nn.Linear(4, 4), nn.Linear(4, 3), nn.Embedding(16, 4)
        self.table, self.causal, self.even, self.odd = TABLE * 2, torch.tril(torch.ones(16, 16)), 2.0, 3.0

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.program(self, self.first(x).relu()))


def heads(net: Net, h: Tensor) -> Tensor:
    return h.view(h.size()[:-1] + (2, 2)).transpose(1, 2).reshape(h.shape[0], -1, 4)  # noqa: RUF005


def padded(net: Net, h: Tensor) -> Tensor:
    return F.pad(h, (0, 0, 0, 16 - h.shape[1])) + TABLE


def masked(net: Net, h: Tensor) -> Tensor:
    t = h.shape[1]
    return (h @ h.transpose(1, 2)).masked_fill(net.causal[:t, :t] == 0, -1e9).softmax(-1) @ h


def sinusoids(net: Net, h: Tensor) -> Tensor:
    t = h.shape[1]
    angles = torch.arange(t, dtype=torch.float32)[:, None] * torch.exp(torch.arange(0, 4, 2) * -2.0)
    made = torch.zeros(t, 4)
    made[:, 0::2], made[:, 1::2] = angles.sin(), angles.cos()
    return h + made


def written(net: Net, h: Tensor) -> Tensor:
    made = net.table.clone()
    made[: h.shape[1]] = 1.0
    return h + made.sum(0)


def halved(net: Net, h: Tensor) -> Tensor:
    t = math.ceil(h.shape[1] / 2)
    return h[:, :t] + TABLE[:t]


def checked(net: Net, h: Tensor) -> Tensor:
    torch._assert(h.ndim == 3, f"three axes, not {h.shape}")
    return h * 2


TAKEN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "expand": lambda net, h: torch.bmm(h, torch.eye(4).expand(h.shape[0], 4, 4)),
    "expand to part of a shape": lambda net, h: h + torch.ones(4).expand(*h.shape[:-1], 4),
    "expand to a shape": lambda net, h: h + torch.ones(4).expand(h.shape),
    "repeat": lambda net, h: h + torch.ones(1, 1, 4).repeat(h.size(0), h.size(1), 1),
    "tile": lambda net, h: h + torch.tile(torch.ones(1, 1, 4), (h.shape[0], 1, 1)),
    "broadcast_to": lambda net, h: h + torch.broadcast_to(torch.ones(4), (h.shape[0], h.shape[1], 4)),
    "new_zeros": lambda net, h: h + TABLE.new_zeros(h.shape[0], 1, 4),
    "new_full": lambda net, h: h + TABLE.new_full((h.shape[0], 1, 1), 2.0),
    "a slice of a global": lambda net, h: h + TABLE[: h.shape[1]],
    "a slice of an attribute": lambda net, h: h + net.table[None, : h.size(1), :],
    "a slice from the end": lambda net, h: h + net.table[-h.size(1) :],
    "narrow": lambda net, h: h + torch.narrow(net.table, 0, 0, h.size(1)),
    "select": lambda net, h: h + TABLE.select(0, h.shape[1] - 1) + TABLE[h.shape[1] - 1],
    "split": lambda net, h: h + net.table.split([h.shape[1], 16 - h.shape[1]])[0],
    "index_select": lambda net, h: h + TABLE.index_select(0, torch.arange(h.shape[1])),
    "as_strided": lambda net, h: h + torch.as_strided(TABLE, (h.shape[1], 4), (4, 1)),
    "roll": lambda net, h: h + torch.roll(TABLE, h.shape[1], 0)[0],
    "interpolate": lambda net, h: h + F.interpolate(TABLE.T[None], size=h.shape[1]).transpose(1, 2),
    "adaptive pool": lambda net, h: h + F.adaptive_avg_pool1d(TABLE.T, h.shape[1]).T,
    "functions by their names": lambda net, h: h + zeros(h.shape[0], 1, 1) + full((h.shape[1], 1), 2) + arange(4),
    "causal mask": masked,
    "causal mask made": lambda net, h: torch.triu(torch.ones(h.shape[1], h.shape[1]), diagonal=1) @ h,
    "torch.Size": lambda net, h: h + torch.zeros(torch.Size((h.shape[0], h.shape[1])))[..., None],
    "shape and more": lambda net, h: h.reshape(h.shape + (1,)).squeeze(-1),  # noqa: RUF005
    "shape as a list": lambda net, h: h + torch.ones([*list(h.shape)[:2], 4]),
    "product": lambda net, h: h.view(h.shape[0], math.prod(h.shape[1:])).cumsum(1)[:, :4],
    "heads": heads,
    "padded": padded,
    "sinusoids": sinusoids,
    "written": written,
    "halved": halved,
    "positions": lambda net, h: h + net.names(torch.arange(h.shape[1])[None].expand(h.shape[0], -1)),
    "root of a size": lambda net, h: h / math.sqrt(h.shape[1]) + math.log(h.shape[0]),
    "size as a tensor": lambda net, h: h / torch.tensor(h.shape[1]) + torch.tensor([[h.shape[0], 1, 2, h.shape[1]]]),
    "size out of a tensor": lambda net, h: h * torch.tensor(h.shape)[0].item(),
    "sizes out of a tensor": lambda net, h: h.reshape(torch.tensor([h.shape[0], -1, 4]).tolist()),
    "pooled": lambda net, h: F.avg_pool1d(h.transpose(1, 2), kernel_size=h.shape[1]).transpose(1, 2),
    "at least one": lambda net, h: h + TABLE[: max(h.shape[1], 1)],
    "last of the parts": lambda net, h: h.split(2, 1)[-1] + h.unbind(1)[-1][:, None],
    "named parts": lambda net, h: (lambda a, b: torch.cat([b, a], -1))(*h.chunk(2, -1)),
    "a message": checked,
}
REFUSED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "int": lambda net, h: h.reshape(int(torch.tensor(h.shape)[0]), -1, 4),
    "ints": lambda net, h: h.reshape([int(n) for n in torch.tensor([h.shape[0], -1, 4])]),
    "shape as a tensor": lambda net, h: h.reshape(
        torch.Size(torch.cat([torch._shape_as_tensor(h)[:2], torch.tensor([4])]))
    ),
    "numpy": lambda net, h: h.reshape(np.array(h.shape)[0], -1, 4) / np.sqrt(h.shape[1]),
    "range": lambda net, h: torch.stack([h[:, i] * i for i in range(h.shape[1])], 1),
    "branch": lambda net, h: h * 2 if h.shape[1] > 4 else h,
    "parts in a loop": lambda net, h: torch.stack([part * 2 for part in h.unbind(1)], 1),
    "sum of parts": lambda net, h: h + sum(part.sum(1, keepdim=True) for part in h.split(2, 1)),
    "number of parts": lambda net, h: h * len(h.split(2, 1)),
    "parts among others": lambda net, h: torch.cat([*h.split(2, 1), h], 1),
    "parts and more": lambda net, h: torch.cat(h.split(2, 1) + (h,), 1),  # noqa: RUF005
    "numbers in a list": lambda net, h: h * sum(torch.arange(h.shape[1]).tolist()),
    "a name": lambda net, h: h * getattr(net, f"{'even' if f'{h.shape[1]}' in '2468' else 'odd'}"),
    "a length": lambda net, h: h * len(str(h.shape[1])),
}


def compare(program: Callable[[Any, Tensor], Tensor], refuses: bool) -> None:
    model = ft.randomize(Net(program).eval())
    plan = ft.plan(model, torch.randn(*SIZES[0], 4))
    assert not plan.captured.opaque
    network, refused = plan.rewrite(plan.identity()), 0
    for size in SIZES:
        x = torch.randn(*size, 4)
        try:
            out = network(x)
        except ft.GuardError:
            refused += 1
        else:
            assert torch.equal(out, model(x)), f"another result at {size}"
    assert (refused > 0) is refuses
    assert refused < len(SIZES)


@pytest.mark.parametrize("program", TAKEN.values(), ids=TAKEN)
def test_every_size_is_taken(program: Callable[[Any, Tensor], Tensor]) -> None:
    compare(program, refuses=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("program", REFUSED.values(), ids=REFUSED)
def test_what_fixes_a_size_is_refused_at_another(program: Callable[[Any, Tensor], Tensor]) -> None:
    compare(program, refuses=True)


def test_parts_that_are_named_need_no_guard() -> None:
    def program(net: Net, h: Tensor) -> Tensor:
        a, b = h.chunk(2, -1)
        q, k, v = torch.stack([h, h, h])
        return torch.cat([b, a], -1) + q + k + v

    plan = ft.plan(Net(program).eval(), torch.randn(2, 5, 4))
    assert not plan.specialized


def test_random_numbers_that_no_input_decides_are_drawn_at_each_run() -> None:
    model = Net(lambda net, h: h + torch.rand_like(TABLE[:1]) + torch.normal(0.0, 1.0, (1, 4))).eval()
    network = ft.teleport(model, torch.randn(2, 5, 4), exact=True, seed=0)
    for seed in range(2):
        x = torch.randn(3, 2, 4)
        torch.manual_seed(seed)
        out = network(x)
        torch.manual_seed(seed)
        assert torch.equal(out, model(x))


def test_a_forward_that_seeds_is_kept_whole() -> None:
    def program(net: Net, h: Tensor) -> Tensor:
        torch.manual_seed(0)
        return h + torch.rand(4)

    model, x = Net(program).eval(), torch.randn(2, 5, 4)
    with pytest.warns(ft.OpaqueModuleWarning, match="seeds"):
        network = ft.teleport(model, x, seed=0)
    assert torch.equal(network(x), model(x))
