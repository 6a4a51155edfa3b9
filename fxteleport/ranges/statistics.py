"""Statistics: what equalising needs of all layers of a plan, in one vector for each quantity.

Reading the weights costs O(weights); each use of the statistics costs O(neurons). The weights may be read again at
another basis (`gather(..., logs)`) to be exact there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxteleport.passes.errors import NothingFree
from fxteleport.passes.graph.node_info import info
from fxteleport.plan.analysis import Analysis
from fxteleport.ranges.calibrate import Channels
from fxteleport.ranges.held_weights import held_weights, meets_the_input
from fxteleport.ranges.layers import Layer, layers_of
from fxteleport.ranges.log_basis import Slots, joined
from fxteleport.ranges.segments import segment_max, segment_sum
from fxteleport.ranges.weight_reading import Reader, Reading, channel_axis

_TINY = 1e-300
_LEAST = 1e-12  # the least use of a channel, as a share of the largest: the logarithm of 0 is not finite


@dataclass(frozen=True, eq=False)
class Statistics:
    """Every row, column and kept element of all layers, in one vector each.

    All numbers are of the model before any change of basis, except for the norms.

    Attributes:
        names: the layers' weights.
        rows, columns: the factors that multiply each row (the CoB of an output), and divide each column (of an input).
        row_layer, column_layer: int64: the layer of each.
        row_block, column_block: int64: the block of each; a block's rows and columns share elements with no others.
        block_layer: int64: the layer of each block.
        row_norm, column_norm: the logarithms of the norms of rows (columns), with the columns (rows) scaled by the
            change of basis at which the weights were read.
        row_alive, column_alive: bool: rows and columns that do not count as zero.
        bias: the magnitude of each row's bias.
        peak, peak_row, peak_column: the logarithms of the kept elements' magnitudes, and their rows and columns.
        positions: for each layer, the number of elements that a row and a column share (a convolution's kernel).
        signal_in: the mean square of each input channel.
        largest_in, signed_in: the largest magnitude of each input channel, None without data; whether a layer's inputs
            take both signs.
        use: for each row, the cost of a unit of squared noise at that output, over all layers that read it.
        column_cost: for each column, the cost of a unit of squared noise at that input: the column's squares, at the
            mean use of the block's rows.
    """

    names: list[str]
    rows: Slots
    columns: Slots
    row_layer: Tensor
    column_layer: Tensor
    row_block: Tensor
    column_block: Tensor
    block_layer: Tensor
    row_norm: Tensor
    column_norm: Tensor
    row_alive: Tensor
    column_alive: Tensor
    bias: Tensor
    peak: Tensor
    peak_row: Tensor
    peak_column: Tensor
    positions: Tensor
    signal_in: Tensor
    largest_in: Tensor | None
    signed_in: Tensor
    use: Tensor
    column_cost: Tensor

    @property
    def layers(self) -> int:
        """The number of layers."""
        return len(self.names)

    def peaks_at(self, logs: Tensor) -> Tensor:
        """The logarithms of the kept elements after a change of basis; differentiable."""
        rows, columns = self.rows.of(logs), self.columns.of(logs)
        return self.peak + rows[self.peak_row] - columns[self.peak_column]


def planned_layers(plan: Analysis) -> list[Layer]:
    """The layers of a plan's graph, the first of each weight."""
    maps, canonical = plan.constrained.maps, plan.captured.canonical
    layers: dict[str, Layer] = {}
    for layer in layers_of(plan.captured.graph, plan.captured.modules.get):
        if layer.weight in canonical and layer.node in maps and layer.input in maps:
            layers.setdefault(canonical[layer.weight], layer)
    for layer in held_weights(plan.captured.graph, plan.captured.modules.get, plan.captured.metas.get):
        scaled = plan.tensor_map(layer.weight) if layer.weight in canonical else None
        if scaled is not None and scaled.factors:
            layers.setdefault(canonical[layer.weight], layer)
    return list(layers.values())


def watched_axes(plan: Analysis) -> dict[str, int]:
    """The nodes to calibrate, with the axes of their channels."""
    axes: dict[str, int] = {}
    for layer in planned_layers(plan):
        if layer.is_held:
            if meets_the_input(layer):
                axes[layer.input.name] = info(layer.input).value.ndim - 1
            continue
        rank = plan.captured.metas[layer.weight].ndim
        axes |= {node.name: channel_axis(layer, node, rank) for node in (layer.input, layer.node)}
    return axes


def gather(
    plan: Analysis,
    weights: Mapping[str, Tensor],
    seen: Mapping[str, Channels] | None = None,
    logs: Tensor | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Statistics:
    """Read every weight once.

    Args:
        weights: the model's tensors by name.
        seen: of `calibrate`, by node name.
        logs: the logarithms of a change of basis near which the statistics will be used.
        progress: called with the name of each weight.

    Raises:
        InputError: the plan has no layer.
        ModelError: a weight is no floating-point tensor, or has values that are not finite.
    """
    at = torch.zeros(plan.num_free, dtype=torch.float64) if logs is None else logs
    reader, read = Reader(plan, weights, seen, at), list[Reading]()
    for layer in planned_layers(plan):
        progress(layer.weight)
        read.append(reader.read(layer))
    if not read:
        raise NothingFree("no linear layer or convolution has a parameter for its weight: there is nothing to equalise")
    return _side_by_side(read, plan.num_free)


def _side_by_side(read: Sequence[Reading], num_free: int) -> Statistics:
    rows, columns = joined([r.rows for r in read]), joined([r.columns for r in read])
    row_layer, row_block, row_start = _places([r.rows.count for r in read], [r.groups for r in read])
    column_layer, column_block, column_start = _places([r.columns.count for r in read], [r.groups for r in read])
    row_square, column_square = (torch.cat([r.squares[i] for r in read]) for i in range(2))
    power = segment_sum(torch.cat([r.signals[0] for r in read]), row_layer, len(read)).clamp_min(_TINY)
    use = _use(rows, columns.back(column_square / power[column_layer], num_free, squared=True), row_layer, power)
    blocks = sum(r.groups for r in read)
    of_block = segment_sum(use * row_square, row_block, blocks) / segment_sum(row_square, row_block, blocks).clamp_min(
        _TINY
    )
    seen = [r.seen for r in read]
    no_data = any(r.seen is None and r.is_rounded_input for r in read)
    return Statistics(
        names=[r.weight for r in read],
        rows=rows,
        columns=columns,
        row_layer=row_layer,
        column_layer=column_layer,
        row_block=row_block,
        column_block=column_block,
        block_layer=torch.repeat_interleave(torch.arange(len(read)), torch.tensor([r.groups for r in read])),
        row_norm=torch.cat([r.norms[0] for r in read]),
        column_norm=torch.cat([r.norms[1] for r in read]),
        row_alive=torch.cat([r.alive[0] for r in read]),
        column_alive=torch.cat([r.alive[1] for r in read]),
        bias=torch.cat([r.bias for r in read]),
        peak=torch.cat([r.peaks[0] for r in read]),
        peak_row=torch.cat([r.peaks[1] + start for r, start in zip(read, row_start, strict=True)]),
        peak_column=torch.cat([r.peaks[2] + start for r, start in zip(read, column_start, strict=True)]),
        positions=torch.tensor([r.positions for r in read], dtype=torch.float64),
        signal_in=torch.cat([r.signals[1] for r in read]),
        largest_in=None if no_data else torch.cat([_largest(r) for r in read]),
        signed_in=torch.tensor([s is not None and bool((s.low < 0).any()) for s in seen]),
        use=use,
        column_cost=column_square * of_block[column_block],
    )


def _largest(read: Reading) -> Tensor:
    """The largest inputs; 0 where inputs are not rounded."""
    return torch.zeros(read.columns.count, dtype=torch.float64) if read.seen is None else read.seen.largest


def _places(counts: Sequence[int], groups: Sequence[int]) -> tuple[Tensor, Tensor, list[int]]:
    """The layer and the block of each channel, and the index at which each layer's channels begin."""
    layer = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    each = [n // g for n, g in zip(counts, groups, strict=True) for _ in range(g)]
    block = torch.repeat_interleave(torch.arange(len(each)), torch.tensor(each))
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return layer, block, starts


def _use(rows: Slots, cost: Tensor, row_layer: Tensor, power: Tensor) -> Tensor:
    """The cost of noise at each output for the layers that read it, by the free values that they share.

    For outputs that no layer reads (mostly the network's), it is relative to their own layer's signal.

    Args:
        cost: the cost of a unit of squared noise, [num_free].
    """
    use = torch.zeros(rows.count, dtype=torch.float64).index_add(0, rows.at, cost[rows.free])
    top = segment_max(use, row_layer, len(power))[row_layer]
    return torch.where(top > 0, use.clamp_min(_LEAST * top), 1 / power[row_layer])
