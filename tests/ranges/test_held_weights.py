"""Embeddings, attention and recurrent layers: their matrices are read as layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.domain.solution import UNIT
from fxteleport.ranges.statistics import planned_layers


class Words(nn.Module):
    """An embedding, attention, a recurrent layer and a head."""

    def __init__(self, is_recurrent: bool = True) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(12, 16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.recurrent = nn.LSTM(16, 16, batch_first=True) if is_recurrent else None
        self.head = nn.Linear(16, 4)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.head(x if self.recurrent is None else self.recurrent(x)[0])


HELD = {
    "embed.weight",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "recurrent.weight_ih_l0",
}


def moved(is_recurrent: bool = True) -> tuple[nn.Module, Tensor]:
    """A network far from where its numbers are alike."""
    model, words = ft.randomize(Words(is_recurrent).eval()), torch.arange(24).view(4, 6) % 12
    plan = ft.plan(model, words, mode="weights")
    powers = torch.randint(-4, 5, (plan.num_free,), generator=torch.Generator().manual_seed(0)).double()
    signs = torch.from_numpy(plan.solution.allows == UNIT)  # of the LSTM's hidden units
    plan.apply_(plan.cob(powers.exp2().masked_fill(signs, -1)))
    return model, words


def test_they_are_layers() -> None:
    model, words = moved()
    plan = ft.plan(model, words)
    assert {layer.weight for layer in planned_layers(plan)} >= HELD


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("method", ["range", "l2", "noise"])
def test_what_moved_away_is_brought_back(method: str, with_data: bool) -> None:
    """Without the recurrent layer, whose gates' own rounding would cover all else."""
    model, words = moved(is_recurrent=False)
    plan = ft.plan(model, words)
    data = [words[:2], words[2:]] if with_data else None
    found = ft.equalized(plan, method, data, bits=5)
    assert found.share > 0
    network = plan.rewrite(found.cob)
    assert ft.verify(model, network, words).passed

    def error(network: torch.fx.GraphModule) -> float:
        with torch.no_grad():
            return float((ft.fake_quantize(network, 5)(words) - model(words)).square().mean())

    assert error(network) < 0.5 * error(plan.rewrite(plan.identity()))


def test_their_matrices_are_rounded() -> None:
    model, words = moved()
    plan = ft.plan(model, words)
    rounded = ft.fake_quantize(plan.rewrite(plan.identity()), 3)
    for name in HELD:
        assert len(rounded.get_parameter(name).unique()) <= 7


def test_exact() -> None:
    model, words = moved()
    plan = ft.plan(model, words, mode="weights")
    cob = ft.equalize(plan, "noise", [words[:2], words[2:]], bits=5, activation_bits=8, exact=True)
    assert torch.equal(plan.rewrite(cob)(words), model(words))
