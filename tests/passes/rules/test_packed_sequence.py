"""Packed sequences: their positions share a CoB, their channels keep their own, whatever the lengths."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fxteleport as ft


class Reader(nn.Module):
    """Sequences of several lengths through a recurrent layer, and back."""

    def __init__(
        self, first: bool = False, sort: bool = False, padding: float = 0.0, rnn: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.first, self.sort, self.padding = first, sort, padding
        self.a, self.rnn = nn.Linear(6, 8), rnn or nn.LSTM(8, 5, batch_first=first)
        self.b, self.c = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.a(x), lengths, self.first, enforce_sorted=self.sort)
        out, _ = pad_packed_sequence(self.rnn(packed)[0], self.first, self.padding)
        return self.c(torch.relu(self.b(out)))


READERS: dict[str, Callable[[], Reader]] = {
    "sorted": lambda: Reader(sort=True),
    "in any order": lambda: Reader(),
    "batch first": lambda: Reader(first=True),
    "padded with ones": lambda: Reader(padding=1.0),
    "GRU": lambda: Reader(rnn=nn.GRU(8, 5)),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("mode", ["full", "weights"])
def test_what_is_packed_keeps_its_channels(name: str, mode: str, assert_exact: Callable[..., ft.Plan]) -> None:
    model = READERS[name]()
    lengths = torch.tensor([4, 3]) if name == "sorted" else torch.tensor([2, 4])
    x = torch.randn((2, 4, 6) if model.first else (4, 2, 6))
    plan = assert_exact(model, x, lengths, mode=mode)
    assert not plan.opaque
    units = 0 if name == "padded with ones" else 5
    assert plan.num_free == 8 + units + 4
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
    other = torch.randn((3, 7, 6) if model.first else (7, 3, 6)), torch.tensor([7, 5, 1])
    assert torch.equal(network(*other), plan.captured.model(*other))


class Padding(nn.Module):
    """Back to steps without a recurrent layer between: what is padded on is 0 or 2."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.a, self.b = value, nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        out, _ = pad_packed_sequence(pack_padded_sequence(self.a(x), lengths), padding_value=self.value)
        return self.b(out)


@pytest.mark.parametrize(("value", "free"), [(0.0, 8), (2.0, 0)])
def test_padding(value: float, free: int, assert_exact: Callable[..., ft.Plan]) -> None:
    plan = assert_exact(Padding(value), torch.randn(4, 2, 6), torch.tensor([4, 3]), at_least=0)
    assert not plan.opaque
    assert plan.num_free == free


class TakesPacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.b, self.c = nn.GRU(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, packed: PackedSequence) -> Tensor:
        return self.c(torch.relu(self.b(self.rnn(packed)[0].data)))


def test_packed_inputs(assert_exact: Callable[..., ft.Plan]) -> None:
    plan = assert_exact(TakesPacked(), pack_padded_sequence(torch.randn(4, 2, 6), torch.tensor([4, 3])))
    assert not plan.opaque
    assert plan.num_free == 5 + 4
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    other = pack_padded_sequence(torch.randn(5, 3, 6), torch.tensor([5, 2, 2]))
    assert torch.equal(network(other), plan.captured.model(other))


def test_packed_outputs() -> None:
    class GivesPacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor, lengths: Tensor) -> PackedSequence:
            return pack_padded_sequence(self.b(torch.relu(self.a(x))), lengths)

    model = ft.randomize(GivesPacked().eval())
    inputs = torch.randn(4, 2, 6), torch.tensor([4, 3])
    plan = ft.plan(model, *inputs)
    assert plan.num_free == 8
    found, right = plan.rewrite(plan.sample(exact=True, seed=0))(*inputs), model(*inputs)
    assert type(found) is PackedSequence
    assert torch.equal(found.data, right.data) and torch.equal(found.batch_sizes, right.batch_sizes)


class Scaled(nn.Module):
    """Every step, and every sequence, with a number of its own."""

    def __init__(self, late: bool) -> None:
        super().__init__()
        self.late, self.a, self.b = late, nn.Linear(6, 8), nn.Linear(8, 3)
        self.steps, self.sequences = nn.Parameter(torch.ones(4, 1, 1)), nn.Parameter(torch.ones(1, 2, 1))
        self.positions = nn.Parameter(torch.ones(7, 1))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = self.a(x) if self.late else self.a(x) * self.steps * self.sequences
        data, *sizes = pack_padded_sequence(x, lengths)
        packed = PackedSequence(data * self.positions if self.late else data, *sizes)
        return self.b(pad_packed_sequence(packed)[0])


@pytest.mark.parametrize(("late", "free"), [(False, 8 + 1 + 1), (True, 8 + 1)])
def test_all_positions_share_a_cob(late: bool, free: int, assert_exact: Callable[..., ft.Plan]) -> None:
    """Which of them meet depends on the lengths; one number for all is left of each parameter."""
    plan = assert_exact(Scaled(late), torch.randn(4, 2, 6), torch.tensor([4, 3]))
    assert not plan.opaque
    assert plan.num_free == free
