"""Reading a weight: what equalising needs of one layer, in O(neurons) memory.

For a weight [outputs, inputs, positions] the rows are its output channels, the columns its input channels. For each row
and each column, the `PEAKS` largest elements are kept. Under any change of basis the range of a row is the largest of
its scaled elements; as long as that is one of the kept ones, it is known without the weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxteleport.passes.errors import ModelError
from fxteleport.passes.graph.node_info import info
from fxteleport.plan.analysis import Analysis
from fxteleport.ranges.calibrate import Channels
from fxteleport.ranges.held_weights import meets_the_input
from fxteleport.ranges.largest import largest_elements
from fxteleport.ranges.layers import Layer
from fxteleport.ranges.log_basis import LogBasis, Slots

PEAKS = 8  # elements kept of each row and of each column
DEAD = 2.0**-16  # a row with no element above this share of its layer's largest counts as zero
Pair = tuple[Tensor, Tensor]  # of the rows, of the columns: float64


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read of one layer (see `Statistics` for the meaning of each).

    Attributes:
        weight: its name.
        rows, columns: the slots of its outputs and of its inputs.
        groups, positions: the number of blocks, and of elements that a row and a column share.
        squares, norms, alive: of the rows, and of the columns.
        bias: magnitudes, of the rows.
        peaks: the logarithms of the largest elements, their rows, their columns.
        signals: mean squares of the outputs, and of the inputs.
        seen: the calibrated statistics of the inputs; None without data, or where inputs are not rounded.
        is_rounded_input: a format with activations rounds the inputs.
    """

    weight: str
    rows: Slots
    columns: Slots
    groups: int
    positions: int
    squares: Pair
    norms: Pair
    alive: Pair
    bias: Tensor
    peaks: tuple[Tensor, Tensor, Tensor]
    signals: Pair
    seen: Channels | None
    is_rounded_input: bool


class Reader:
    """Reads the layers of a plan, in the order of its graph.

    Args:
        plan: the plan.
        weights: the model's tensors by name.
        seen: of `calibrate`, by node name. Without it, mean squares are those of white inputs through the linear layers
            alone.
        logs: the logarithms of a change of basis: the largest elements, and the norms, are those after it.
    """

    def __init__(
        self, plan: Analysis, weights: Mapping[str, Tensor], seen: Mapping[str, Channels] | None, logs: Tensor
    ) -> None:
        self.plan, self.weights, self.seen, self.logs = plan, weights, seen, logs
        self.is_moved = bool(logs.any())
        self.basis = LogBasis(plan.solution)
        self.flow = torch.zeros(plan.num_free, dtype=torch.float64)  # mean squares without data, by free value

    def read(self, layer: Layer) -> Reading:
        """Read a layer.

        Raises:
            ModelError: its weight is no floating-point tensor, or has values that are not finite.
        """
        canonical, maps = self.plan.captured.canonical, self.plan.constrained.maps
        name = canonical[layer.weight]
        weight = self.weights[name].detach()
        _require_fractions(name, weight)
        grouped = by_group(weight, layer)
        grouped = grouped.to(torch.float64 if grouped.dtype is torch.float64 else torch.float32)
        groups, outputs, inputs, positions = grouped.shape
        if layer.is_held:
            rows, columns = self._held(layer, outputs, inputs)
        else:
            rows, columns = (
                self.basis.channels(maps[node], channel_axis(layer, node, weight.ndim), groups * count)
                for node, count in ((layer.node, outputs), (layer.input, inputs))
            )
        if positions == 1:
            own = grouped[..., 0]
            size = own.abs() if grouped.dtype == weight.dtype else own.abs_()  # in place, in a copy, to save time
            square = size.square()
        else:
            size, square = grouped.abs().amax(3), grouped.square().sum(3)
        tops = size.amax(2), size.amax(1)
        _require_numbers(name, tops[0])
        sums = square.sum(2), square.sum(1)
        moved, norms = size, (sums[0].log() / 2, sums[1].log() / 2)
        if self.is_moved:
            up = rows.of(self.logs).view(groups, -1, 1).to(grouped)
            down = columns.of(self.logs).view(groups, 1, -1).to(grouped)
            moved = size * up.exp() / down.exp()
            norms = (square * (-2 * down).exp()).sum(2).log() / 2, (square * (2 * up).exp()).sum(1).log() / 2
        bias = None if layer.bias is None else self.weights[canonical[layer.bias]]
        magnitude = torch.zeros(rows.count) if bias is None else bias.detach().abs()
        return Reading(
            weight=name,
            rows=rows,
            columns=columns,
            groups=groups,
            positions=positions,
            squares=(_plain(sums[0]), _plain(sums[1])),
            norms=(_plain(norms[0]), _plain(norms[1])),
            alive=_alive(*tops),
            bias=_plain(magnitude),
            peaks=largest_elements(size, moved, PEAKS),
            signals=self._signals(layer, square, rows, columns, _plain(magnitude)),
            seen=None if self.seen is None or layer.is_held else self.seen.get(layer.input.name),
            is_rounded_input=not layer.is_held,
        )

    def _held(self, layer: Layer, outputs: int, inputs: int) -> tuple[Slots, Slots]:
        """The slots of a matrix' rows and columns, by its own map."""
        cob = self.plan.tensor_map(layer.weight)
        assert cob is not None
        out = layer.out_axis
        return self.basis.channels(cob, out, outputs), self.basis.channels(cob**-1, 1 - out, inputs)

    def _signals(self, layer: Layer, square: Tensor, rows: Slots, columns: Slots, bias: Tensor) -> Pair:
        """The mean squares of the outputs and of the inputs: measured, or propagated from earlier layers."""
        if self.seen is not None and {layer.node.name, layer.input.name} <= self.seen.keys():
            return self.seen[layer.node.name].square, self.seen[layer.input.name].square
        if self.seen is not None and meets_the_input(layer) and layer.input.name in self.seen:
            given = self.seen[layer.input.name].square
            return _carried(square, given), given
        given = torch.zeros(columns.count, dtype=torch.float64).index_add(0, columns.at, self.flow[columns.free])
        given = torch.where(given > 0, given, 1.0)
        output = _carried(square, given) + bias.square()
        self.flow += rows.back(output / (float(output.mean()) or 1.0), len(self.flow), squared=True)
        return output, given


def _carried(square: Tensor, given: Tensor) -> Tensor:
    """The mean squares of the outputs for inputs of given mean squares: [groups, outputs, inputs] -> [outputs]."""
    return _plain(torch.einsum("goi,gi->go", square, given.view(len(square), -1).to(square)))


def by_group(weight: Tensor, layer: Layer) -> Tensor:
    """A weight as [groups, outputs of a group, inputs of a group, positions]."""
    grouped = weight.reshape(layer.groups, weight.shape[0] // layer.groups, weight.shape[1], -1)
    return grouped if layer.out_axis == 0 else grouped.transpose(1, 2)


def channel_axis(layer: Layer, node: fx.Node, weight_rank: int) -> int:
    """The axis of the channels in a layer's input or output."""
    rank: int = info(node).value.ndim
    return rank - 1 if layer.kind == "linear" else rank - weight_rank + 1


def _require_fractions(name: str, weight: Tensor) -> None:
    if not weight.is_floating_point() or weight.itemsize < 2:
        kind = str(weight.dtype).removeprefix("torch.")
        raise ModelError(f"'{name}' holds {kind} numbers, which are quantised already: equalise the float model")


def _require_numbers(name: str, largest: Tensor) -> None:
    if not bool(torch.isfinite(largest).all()):  # where an element is not, neither is its row's largest magnitude
        raise ModelError(f"'{name}' holds NaN or infinity, which have no range: mend the weights first")


def _plain(values: Tensor) -> Tensor:
    return values.reshape(-1).double().cpu()


def _alive(of_rows: Tensor, of_columns: Tensor) -> Pair:
    least = of_rows.max() * DEAD
    return (of_rows > least).reshape(-1).cpu(), (of_columns > least).reshape(-1).cpu()
