"""How many rows integers of the input pick decides: as a sentence's classifier looks for the tokens that end it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

END = 2


def by_mask(h: Tensor, ends: Tensor) -> Tensor:
    return h[ends, :]


def by_masked_select(h: Tensor, ends: Tensor) -> Tensor:
    return h.masked_select(ends[..., None]).view(-1, h.shape[-1])


class Classifier(nn.Module):
    def __init__(self, pick: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.pick, self.embed = pick, nn.Embedding(9, 6)
        self.a, self.b, self.c, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.c(torch.relu(self.b(torch.relu(self.a(self.embed(ids))))))
        ends = ids.eq(END)
        if torch.unique_consecutive(ends.sum(1)).numel() > 1:
            raise ValueError("as many ends everywhere")
        found = self.pick(h, ends)
        if found.shape[0] // h.shape[0] < 1:
            return torch.zeros(h.shape[0], 3)
        out: Tensor = self.head(found.view(h.shape[0], -1, h.shape[-1])[:, -1])
        return out


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("pick", [by_mask, by_masked_select], ids=lambda p: p.__name__)
def test_the_form_of_what_is_picked_decides(pick: Callable[[Tensor, Tensor], Tensor], mode: str) -> None:
    torch.manual_seed(0)
    model = ft.randomize(Classifier(pick)).eval()
    ids = torch.tensor([[3, 4, 2, 0], [5, 2, 0, 0], [6, 7, 8, 2]])
    plan = ft.plan(model, ids, mode=mode)
    assert plan.num_free == 22  # what is picked from has the CoB 1
    emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert ft.verify(model, emitted, ids).passed
    others = [ids.flip(0), torch.tensor([[2, 2, 3], [2, 3, 2]]), torch.tensor([[3, 4, 5], [6, 7, 8]])]
    for other in others:
        try:
            found = emitted(other)
        except ft.GuardError:
            assert not (other == END).any()
        else:
            assert torch.equal(model(other), found)
