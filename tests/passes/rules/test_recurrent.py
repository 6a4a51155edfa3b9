"""Recurrent layers, functions and cells: a hidden unit's sign is free, and what enters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft


class Recurrent(nn.Module):
    """Two layers around a recurrent one, with what it takes beside its input."""

    def __init__(self, layer: nn.Module, width: int, read: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.state, self.rnn, self.read = nn.Linear(3, 5), nn.Linear(3, 6), layer, read
        self.b, self.c = nn.Linear(width, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(self.read(self.rnn, self.a(x), self.state(x)))))


def output(rnn: nn.Module, x: Tensor, h: Tensor) -> Tensor:
    return rnn(x)[0]


def last_states(rnn: nn.Module, x: Tensor, h: Tensor) -> Tensor:
    _, (hidden, cell) = rnn(x)
    return torch.cat([hidden[-1], cell[0]], -1)


def stepwise(rnn: nn.Module, x: Tensor, h: Tensor) -> Tensor:
    for step in x.unbind(1):
        h = rnn(step, h[:, 0] if h.ndim == 3 else h)
    return h


def function_of_cells(cell: Callable[..., Any]) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    def run(rnn: nn.Module, x: Tensor, h: Tensor) -> Tensor:
        state: Any = (h[:, 0], h[:, 1]) if cell is torch.lstm_cell else h[:, 0]
        state = cell(x[:, 0], state, rnn.weight_ih, rnn.weight_hh, rnn.bias_ih, rnn.bias_hh)
        return state[0] if cell is torch.lstm_cell else state

    return run


def packed(rnn: nn.Module, x: Tensor, h: Tensor) -> Tensor:
    sequence = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2]), batch_first=True)
    return rnn(sequence)[1][-1]


# name -> the network, and how many hidden units are free beside the 5 channels before and the 7 behind
RECURRENT: dict[str, tuple[Callable[[], Recurrent], int]] = {
    "LSTM": (lambda: Recurrent(nn.LSTM(5, 6, batch_first=True), 6, output), 6),
    "GRU, both ways": (lambda: Recurrent(nn.GRU(5, 6, bidirectional=True), 12, output), 12),
    "RNN of three layers": (lambda: Recurrent(nn.RNN(5, 6, num_layers=3), 6, output), 18),
    "RNN of ReLUs": (lambda: Recurrent(nn.RNN(5, 6, nonlinearity="relu", num_layers=2), 6, output), 12),
    "LSTM with a projection": (lambda: Recurrent(nn.LSTM(5, 6, proj_size=4, bias=False), 4, output), 10),
    "LSTM, all of it": (
        lambda: Recurrent(nn.LSTM(5, 6, 2, batch_first=True, proj_size=4, bidirectional=True), 10, last_states), 40
    ),
    "LSTM without a batch": (lambda: Recurrent(nn.LSTM(5, 6), 6, lambda rnn, x, h: rnn(x[0])[0][None]), 6),
    "GRU with a state": (lambda: Recurrent(nn.GRU(5, 6), 6, lambda rnn, x, h: rnn(x, h[:1].contiguous())[0]), 6),
    "LSTM with states": (
        lambda: Recurrent(
            nn.LSTM(5, 6), 6, lambda rnn, x, h: rnn(x, (h[:1].contiguous(), h[1:].contiguous()))[1][1]
        ),
        6,
    ),
    "LSTM of sequences": (lambda: Recurrent(nn.GRU(5, 6, batch_first=True), 6, packed), 6),
    "GRUCell": (lambda: Recurrent(nn.GRUCell(5, 6), 6, stepwise), 6),
    "RNNCell": (lambda: Recurrent(nn.RNNCell(5, 6, nonlinearity="relu"), 6, stepwise), 6),
    "lstm_cell": (lambda: Recurrent(nn.LSTMCell(5, 6), 6, function_of_cells(torch.lstm_cell)), 6),
    "gru_cell": (lambda: Recurrent(nn.GRUCell(5, 6), 6, function_of_cells(torch.gru_cell)), 6),
    "rnn_tanh_cell": (lambda: Recurrent(nn.RNNCell(5, 6), 6, function_of_cells(torch.rnn_tanh_cell)), 6),
}  # fmt: skip


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("mode", ["full", "weights"])
def test_hidden_units_are_free_and_what_enters(name: str, mode: str, assert_exact: Callable[..., ft.Plan]) -> None:
    make, units = RECURRENT[name]
    plan = assert_exact(make(), torch.randn(2, 4, 3), mode=mode)
    assert not plan.opaque
    assert plan.num_free == 5 + units + 7


def test_a_gate_keeps_its_sign() -> None:
    """Only the rows of what tanh makes change theirs."""
    plan = ft.plan(RECURRENT["LSTM"][0](), torch.randn(2, 4, 3))
    scales = plan.scales(plan.sample(0.9, "inter", exact=True, seed=0))
    i, f, g, o = scales["rnn.bias_ih_l0"].chunk(4)
    assert set(g.tolist()) == {1.0, -1.0}
    assert set(torch.cat([i, f, o]).tolist()) == {1.0}
    assert torch.equal(scales["rnn.weight_hh_l0"].chunk(4)[2], g[:, None] / g[None])


def test_a_state_that_is_given_pins_its_units(assert_exact: Callable[..., ft.Plan]) -> None:
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 6)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return self.rnn(x, h)[0].relu()

    plan = assert_exact(Given(), torch.randn(4, 2, 3), torch.randn(1, 2, 6), at_least=0)
    assert plan.num_free == 0


class OwnLstm(nn.LSTM):
    """A subclass whose forward is torch's Python code."""

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return super().forward(input, hx)


class OwnGru(nn.GRU):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return super().forward(input, hx)


class NamedLstm(nn.LSTM):
    """A subclass without code."""


@pytest.mark.parametrize("kind", [OwnLstm, OwnGru, NamedLstm])
@pytest.mark.parametrize(
    "settings",
    [{}, {"bidirectional": True}, {"num_layers": 2, "bias": False}, {"num_layers": 2, "dropout": 0.3}],
    ids=str,
)
def test_subclasses_of_recurrent_layers(
    kind: type[nn.RNNBase], settings: dict[str, bool | int], assert_exact: Callable[..., ft.Plan]
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 6), nn.LazyLinear(2)
            self.rnn = kind(6, 4, batch_first=True, **settings)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.rnn(torch.relu(self.first(x)))[0])

    model, x = Net(), torch.randn(2, 5, 3)
    model(x)
    for mode in ("full", "weights"):
        plan = assert_exact(model, x, mode=mode)
        units = 4 * settings.get("num_layers", 1) * (1 + settings.get("bidirectional", False))
        assert plan.num_free == 6 + units
        assert not plan.opaque
        network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
        other = torch.randn(3, 7, 3)
        assert torch.equal(network(other), model(other))
        expected, found = [], []
        for part, into in ((model, expected), (network, found)):
            torch.manual_seed(0)
            into.append(part.train()(x))
        assert torch.equal(expected[0], found[0])
        model.eval()
