"""Recurrent: RNN, LSTM and GRU, as layers, as functions, and as cells.

A hidden unit may change its sign: tanh is odd, and the weights from hidden units to gates undo the sign. Its magnitude
is pinned, but for an RNN of ReLUs (any positive CoB) and for a projection of an LSTM (any CoB).
The rows of a weight are those of its gates (torch's order):

    RNN     h = f(W x + U h)                                   rows of W, U: s
    LSTM    i, f, o = sigmoid(...), g = tanh(...)              rows: 1, 1, s, 1     c = f c + i g,  h = o tanh(c)
    GRU     r, z = sigmoid(...), n = tanh(W x + r (U h))       rows: 1, 1, s        h = (1 - z) n + z h

Rewritten: weight * rows / columns, where the columns are the input's CoB, the hidden units', or those of the layer
below, both directions one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxteleport.passes.domain.cob_map import IDENTITY, CobMap
from fxteleport.passes.rules import shape_functions
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.operand import Operand, carries
from fxteleport.passes.rules.registry import rule
from fxteleport.passes.rules.weighted import channel, on_axis, stacked

_GATES = {"RNN_TANH": "s", "RNN_RELU": "s", "LSTM": "11s1", "GRU": "11s"}


@dataclass(frozen=True)
class Weights:
    """The weights of one layer in one direction, in torch's order; the projection is an LSTM's, or None."""

    into: Operand
    hidden: Operand
    biases: Sequence[Operand]
    projection: Operand | None = None

    @classmethod
    def of(cls, weights: Sequence[Operand], has_biases: bool) -> Weights:
        count = 4 if has_biases else 2
        return cls(weights[0], weights[1], weights[2:count], weights[count] if len(weights) > count else None)


def units(call: Call, kind: str, count: int, size: int) -> CobMap:
    """The CoB of `count` sets of hidden units: a map of [count, size]."""
    cob = call.fresh((count, size), "hidden units")
    if kind == "RNN_RELU":
        call.positive(cob, "a negative CoB would change this operation")
    else:
        call.unit(cob, "a CoB other than +-1 would change the tanh of a recurrent layer")
    return cob


def constrain(call: Call, kind: str, weights: Weights, into: CobMap, inner: CobMap, outer: CobMap) -> None:
    """Require the weights of one layer in one direction.

    Args:
        into: the CoB of the input, a vector.
        inner: the CoB of its cells.
        outer: the CoB of its output; without a projection, `inner`.
    """
    size = weights.hidden.shape[0] // len(_GATES[kind])
    rows = stacked([inner if gate == "s" else IDENTITY for gate in _GATES[kind]], size)
    call.require(weights.into, on_axis(rows, 0, 2) / on_axis(into, 1, 2), "weight * gate / in")
    call.require(weights.hidden, on_axis(rows, 0, 2) / on_axis(outer, 1, 2), "weight * gate / hidden")
    for bias in weights.biases:
        call.require(bias, rows, "bias * gate")
    call.require(weights.projection, on_axis(outer, 0, 2) / on_axis(inner, 1, 2), "weight * out / cell")


def layers(
    call: Call, kind: str, data: Operand, states: Any, weights: Sequence[Weights], directions: int
) -> list[CobMap]:
    """The maps of the output, the last hidden state, and of an LSTM the last cell state.

    Args:
        weights: for each layer and direction, the directions of a layer next to each other.
    """
    first = weights[0]
    inner = units(call, kind, len(weights), first.hidden.shape[0] // len(_GATES[kind]))
    outer = inner
    if first.projection is not None:
        outer = call.fresh((len(weights), first.projection.shape[0]), "projected hidden units")
        if first.projection.shape[1] == 1:
            call.positive(inner, "a product of one weight keeps the sign of a zero")
    into = channel(call, data, -1)
    for start in range(0, len(weights), directions):
        for i in range(start, start + directions):
            constrain(call, kind, weights[i], into, _row(inner, i), _row(outer, i))
        into = outer.each(lambda s, at=start: s[at : at + directions].reshape(-1))  # type: ignore[misc]
    rank = data.rank if isinstance(call.value[0], torch.Tensor) and call.value[0].ndim == data.rank else 2
    last = [_state(cob, state.ndim) for cob, state in zip((outer, inner), _tensors(call.value[1:]), strict=False)]
    for state, cob in zip(pytree.tree_leaves(states), last, strict=False):
        if isinstance(state, Operand):
            call.same(state.map, cob, "a recurrent layer starts from it")
    return [on_axis(into, -1, rank), *last]


def _operands(call: Call, names: Sequence[str]) -> list[Operand]:
    """Parameters of the module that is called."""
    return [call.state.parameters.operand(f"{call.node.target}.{name}") for name in names]


def _row(cob: CobMap, i: int) -> CobMap:
    return cob.each(lambda s: s[i])


def _state(cob: CobMap, rank: int) -> CobMap:
    """The map of a state [layers and directions, (batch,) units]."""
    return cob.each(lambda s: s.view(s.shape[0], *[1] * (rank - 2), s.shape[1]))


def _tensors(x: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(x) if isinstance(leaf, torch.Tensor)]


@rule(nn.RNNBase, shape=shape_functions.recurrent)
def recurrent(call: Call, input: Any, hx: Any = None) -> Any:
    module: Any = call.module
    data, *rest = input if isinstance(input, list) else [input]  # of a packed sequence, beside its sizes
    own = _operands(call, [name for names in module._all_weights for name in names])
    each = len(module._all_weights[0])
    weights = [Weights.of(own[i : i + each], module.bias) for i in range(0, len(own), each)]
    output, *last = layers(call, module.mode, data, hx, weights, 2 if module.bidirectional else 1)
    return [[output, *(IDENTITY for _ in rest)] if rest else output, last if len(last) > 1 else last[0]]


_FUNCTIONS = {torch.lstm: "LSTM", torch.gru: "GRU", torch.rnn_tanh: "RNN_TANH", torch.rnn_relu: "RNN_RELU"}


@rule(*_FUNCTIONS)
def recurrent_function(call: Call, *given: Any, **settings: Any) -> Any:
    """As the layer, whose forward calls it: (data, states, weights, ...), or (data, sizes, states, weights, ...)."""
    packed = isinstance(given[1], Operand) and not carries(given[1].value)
    data, states, own, has_biases, count, *others = (given[0], *given[2:]) if packed else given
    if settings or not isinstance(own, list) or type(count) is not int or isinstance(has_biases, Operand):
        call.decline("its weights are given another way")
    directions = 2 if others[2] else 1  # behind dropout and the mode
    each = len(own) // (count * directions)
    weights = [Weights.of(own[i : i + each], has_biases) for i in range(0, len(own), each)]
    target: Any = call.node.target
    return layers(call, _FUNCTIONS[target], data, states, weights, directions)


@rule(nn.RNNCellBase)
def cell(call: Call, input: Operand, hx: Any = None) -> Any:
    module: Any = call.module
    kind = {nn.LSTMCell: "LSTM", nn.GRUCell: "GRU"}.get(type(module))
    kind = f"RNN_{module.nonlinearity.upper()}" if kind is None else kind
    own = _operands(call, [name for name, held in module._parameters.items() if held is not None])
    return stepped(call, kind, input, hx, Weights.of(own, module.bias))


_CELLS = {
    torch.lstm_cell: "LSTM",
    torch.gru_cell: "GRU",
    torch.rnn_tanh_cell: "RNN_TANH",
    torch.rnn_relu_cell: "RNN_RELU",
}


@rule(*_CELLS)
def cell_function(
    call: Call, input: Operand, hx: Any, w_ih: Operand, w_hh: Operand, b_ih: Operand | None = None,
    b_hh: Operand | None = None,
) -> Any:  # fmt: skip
    target: Any = call.node.target
    biases = [bias for bias in (b_ih, b_hh) if bias is not None]
    return stepped(call, _CELLS[target], input, hx, Weights(w_ih, w_hh, biases))


def stepped(call: Call, kind: str, input: Operand, states: Any, weights: Weights) -> Any:
    """The maps of the states after one step, which equal those of the states before it."""
    cob = _row(units(call, kind, 1, weights.hidden.shape[1]), 0)
    constrain(call, kind, weights, channel(call, input, -1), cob, cob)
    for state in pytree.tree_leaves(states):
        if isinstance(state, Operand):
            call.same(state.map, on_axis(cob, -1, state.rank), "a recurrent cell starts from it")
    results = [on_axis(cob, -1, x.ndim) for x in _tensors(call.value)]
    return results[0] if isinstance(call.value, torch.Tensor) else results
