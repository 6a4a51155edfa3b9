"""Calibrate: the extremes and mean squares of every channel of the layers' inputs and outputs, on a user's data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxteleport.passes.errors import InputError
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.rewrite.any_names import plain
from fxteleport.plan.analysis import Analysis
from fxteleport.plan.emission import rewrite
from fxteleport.plan.free_values import identity


@dataclass
class Channels:
    """Statistics of one tensor by channel, float64.

    Attributes:
        low, high: the extremes.
        square: the mean of the squares.
    """

    low: Tensor
    high: Tensor
    square: Tensor

    @property
    def largest(self) -> Tensor:
        """The largest magnitudes."""
        return torch.maximum(self.high, -self.low)


def batches(data: Iterable[Any]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments of each batch: a tuple or list holds them in order, a mapping by name, a tensor is the only one."""
    for batch in data:
        if isinstance(batch, dict):
            yield (), batch
        else:
            yield (tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)), {}


@torch.no_grad()
def calibrate(
    plan: Analysis, data: Iterable[Any], axes: dict[str, int], progress: Callable[[str], None] = lambda _: None
) -> dict[str, Channels]:
    """Run a copy of the planned model on data, and gather statistics of the tensors of some nodes.

    Args:
        axes: node name -> the axis of its channels.
        progress: called with the name of each batch.

    Raises:
        InputError: there are no data, or the model does not run on them, or computes values that are not finite.
    """
    network = rewrite(plan, identity(plan))
    names = [str(n.target) for n in network.graph.nodes if n.op == "placeholder"]
    watched = _Watched(network, axes)
    for count, (args, kwargs) in enumerate(batches(data)):
        progress(f"batch {count + 1}")
        try:
            watched.run(*args, *(kwargs[name] for name in names[len(args) :] if name in kwargs))
        except Exception as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"the model does not run on the data's batch {count}: {said}") from error
    if not watched.found:
        raise InputError("the data hold no batch: pass an iterable of batches, each as the model's forward takes it")
    for name, channels in watched.found.items():
        if not bool(channels.square.isfinite().all()):
            raise InputError(f"on the data, the values of '{name}' are not finite: there are no ranges to measure")
    return watched.found


class _Watched(fx.Interpreter):
    """Runs a network, and gathers the channels of some nodes."""

    def __init__(self, network: fx.GraphModule, axes: dict[str, int]) -> None:
        super().__init__(plain(network), graph=network.graph)
        self.axes, self.found, self.counts = axes, dict[str, Channels](), dict[str, int]()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        name = info(n).captured or n.name
        if name in self.axes and isinstance(value, Tensor) and value.is_floating_point():
            self._note(name, value)
        return value

    def _note(self, name: str, value: Tensor) -> None:
        flat = value.detach().movedim(self.axes[name], 0).flatten(1) if value.ndim > 1 else value.detach()[:, None]
        if not flat.numel():
            return
        low, high = (f(1).double().cpu() for f in (flat.amin, flat.amax))
        square = flat.double().square().mean(1).cpu()
        if name not in self.found:
            self.found[name], self.counts[name] = Channels(low, high, square), 1
            return
        seen, count = self.found[name], self.counts[name]
        mean = (seen.square * count + square) / (count + 1)
        self.found[name] = Channels(torch.minimum(seen.low, low), torch.maximum(seen.high, high), mean)
        self.counts[name] = count + 1
