"""Folds: known axes that a reshape puts together with unknown ones keep their freedom, at every size."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft

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
