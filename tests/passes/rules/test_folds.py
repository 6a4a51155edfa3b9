"""Folds: known axes that a reshape puts together with unknown ones keep their freedom, at every size."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.errors import GuardError

Way = Callable[[Tensor, Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """Queries, keys and values of 2 heads of 3 channels, [batch, length, 6], and what becomes of them."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way = way
        self.q, self.k, self.v, self.out = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.way(self.q(x), self.k(x), self.v(x)))
        return out


def inside(x: Tensor) -> Tensor:
    """[batch, length, 6] -> [batch * 2, length, 3]."""
    b, n, _ = x.shape
    return x.view(b, n, 2, 3).transpose(1, 2).reshape(b * 2, n, 3)


def outside(x: Tensor) -> Tensor:
    """[batch * 2, length, 3] -> [batch, length, 6]."""
    n = x.shape[1]
    return x.view(-1, 2, n, 3).transpose(1, 2).reshape(-1, n, 6)


def multiplied(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = map(inside, (q, k, v))
    weights = torch.bmm(q / 3**0.5, k.transpose(1, 2)).softmax(-1)
    return outside(F.dropout(weights, 0.1, training=False) @ v.contiguous())


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return outside(F.scaled_dot_product_attention(inside(q), inside(k), inside(v)))


def unbound(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, n, _ = q.shape
    qkv = torch.cat([q, k, v], -1).view(b, n, 3, 2, 3).permute(2, 0, 3, 1, 4).reshape(3, b * 2, n, 3)
    q, k, v = qkv.unbind(0)
    attended = q @ k[:, :, :].mT @ v
    return outside(attended + v)


def windows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Channels go in between the batch and the rows of an image, and come back (MobileViT)."""
    b, n, c = v.shape
    image = v.transpose(1, 2).reshape(b, c, n // 2, 2).repeat(1, 1, 2, 1)  # [b, c, n, 2]: an image n x 2
    cut = image.reshape(b * c * (n // 2), 2, 1, 2).transpose(1, 2)
    pixels = cut.reshape(b, c, n // 2, 4).transpose(1, 3).reshape(b * 4, n // 2, c)
    back = pixels.view(b, 4, n // 2, c).transpose(1, 3).reshape(b * c * (n // 2), 1, 2, 2).transpose(1, 2)
    return back.reshape(b, c, n, 2).mean(3).transpose(1, 2)


def activated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return outside(F.gelu(inside(v)))


def rolled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return outside(inside(v).roll(1, 0))


def halved(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    half = inside(v)
    return outside(torch.cat([half[1:], half[:1]]))


def one_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.cat([v[..., :3], inside(v)[1].expand(v.shape[0], -1, -1)], -1)


def other_parts(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The batch's axis is [batch, head] in one operand, [head, batch] in the other."""
    b, n, _ = v.shape
    turned = q.view(b, n, 2, 3).permute(2, 0, 1, 3).reshape(2 * b, n, 3)
    return outside(inside(v) + turned)


# What becomes of q, k and v, and how many CoBs are free: 6 of q (the inverse of k) and 6 of v where nothing ties them.
WAYS: dict[str, tuple[Way, int]] = {
    "products": (multiplied, 12),
    "attention": (fused, 12),
    "unbound": (unbound, 12),
    "windows": (windows, 6),
    "an activation": (activated, 3),
    "rolled": (rolled, 3),
    "halved": (halved, 3),
    "one head": (one_head, 3),
    "other parts": (other_parts, 3),
}


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("batch", [1, 2])
def test_a_fold_is_right_at_every_size(name: str, mode: str, batch: int) -> None:
    torch.manual_seed(0)
    way, free = WAYS[name]
    model = ft.randomize(Attention(way).eval())
    plan = ft.plan(model, torch.randn(batch, 4, 4), mode=mode)
    if not (name == "an activation" and mode == "weights"):
        assert plan.num_free >= free
    cob = plan.sample(0.9, "inter", exact=True, seed=1)
    network = plan.rewrite(cob)
    networks = [network]
    if mode == "weights":
        assert not plan.conditions
        networks.append(plan.apply_(cob, copy.deepcopy(model)))
    with torch.no_grad():
        for b, n in [(batch, 4), (1, 4), (2, 4), (3, 4), (1, 8), (2, 2), (4, 6), (5, 2)]:
            x = torch.randn(b, n, 4)
            for each in networks:
                assert torch.equal(each(x), model(x)), (b, n)
            report = ft.verify(model, network, x)
            assert report.passed and report.bitwise_equal, (b, n, report.first_difference)


class Experts(nn.Module):
    """A convolution with a weight of its own for each example of the batch, a mixture of 3 (CondConv)."""

    def __init__(self, groups: int, bias: bool, turned: bool) -> None:
        super().__init__()
        self.groups, self.turned = groups, turned
        self.a, self.route, self.b = nn.Conv2d(3, 4, 1), nn.Linear(4, 3), nn.Conv2d(6, 2, 1)
        self.weight = nn.Parameter(torch.randn(3, 6 * 4 // groups * 9))
        self.bias = nn.Parameter(torch.randn(3, 6)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        b, c, height, width = h.shape
        routing = torch.sigmoid(self.route(h.mean((2, 3))))
        weight = (routing @ self.weight).view(b, 6, 4 // self.groups, 3, 3)
        if self.turned:  # which weight meets which example, another batch would decide
            weight = weight.transpose(0, 1)
        bias = None if self.bias is None else (routing @ self.bias).view(b * 6)
        joined = F.pad(h.reshape(1, b * c, height, width), (1, 1, 1, 1))
        made = F.conv2d(joined, weight.reshape(b * 6, -1, 3, 3), bias, groups=self.groups * b)
        return self.b(torch.relu(made.permute(1, 0, 2, 3).view(b, 6, made.shape[-2], made.shape[-1])))


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    "groups, bias, turned", [(1, True, False), (2, True, False), (1, False, False), (1, True, True)]
)
def test_a_weight_of_its_own_for_each_example(groups: int, bias: bool, turned: bool, batch: int, mode: str) -> None:
    torch.manual_seed(0)
    model = ft.randomize(Experts(groups, bias, turned).eval())
    plan = ft.plan(model, torch.randn(batch, 3, 5, 5), mode=mode)
    if not turned:
        assert plan.num_free == (
            13 if mode == "full" else 10
        )  # channels in and out, and the routing where it is wrapped
    cob = plan.sample(0.9, "inter", exact=True, seed=1)
    networks = [plan.rewrite(cob)]
    if mode == "weights":
        assert not plan.conditions
        networks.append(plan.apply_(cob, copy.deepcopy(model)))
    with torch.no_grad():
        for b, n in [(batch, 5), (1, 5), (2, 5), (3, 7), (4, 3)]:
            x = torch.randn(b, 3, n, n)
            for each in networks:
                assert torch.equal(each(x), model(x)), (b, n)


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_groups_of_known_channels_that_an_input_counts(mode: str) -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.weight = nn.Linear(3, 8), nn.Linear(8, 2), nn.Parameter(torch.randn(8, 8))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            n = y.shape[0]
            h = self.a(x).transpose(1, 2)
            return self.b(F.conv1d(h, self.weight[:, : 8 // n, None], groups=n).transpose(1, 2))

    torch.manual_seed(0)
    model = ft.randomize(Counted().eval())
    plan = ft.plan(model, torch.randn(2, 5, 3), torch.randn(2), mode=mode)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
    with torch.no_grad():
        for n in (2, 1, 4, 8):
            x, y = torch.randn(3, 4, 3), torch.randn(n)
            try:
                found = network(x, y)
            except GuardError:
                assert n != 2
                continue
            assert torch.equal(found, model(x, y))
