"""Range report: the largest magnitude of every value and weight, and the elements outside of a number format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxteleport.checked import checked
from fxteleport.passes.errors import InputError
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.rewrite.any_names import plain
from fxteleport.plan.analysis import Analysis
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.emission import rewrite
from fxteleport.plan.free_values import identity
from fxteleport.ranges.calibrate import batches

MASK = 2.0**120  # magnitudes from here on stand for infinity, as in attention masks: they have no range


@dataclass(frozen=True)
class Range:
    """The range of one tensor, compared with a number format.

    Attributes:
        largest: the largest magnitude.
        overflow: the number of elements above the format's largest number.
        subnormal: the number of non-zero elements below its smallest normal number.
    """

    largest: float = 0.0
    overflow: int = 0
    subnormal: int = 0

    def __or__(self, other: Range) -> Range:
        """The range over two batches of one value."""
        return Range(max(self.largest, other.largest), self.overflow + other.overflow, self.subnormal + other.subnormal)


@dataclass(frozen=True)
class RangeRow:
    """A value or a weight, without and with a change of basis.

    Attributes:
        name: of the node, or of the parameter or buffer.
        is_weight: it is a parameter or a buffer.
        before, after: its ranges.
    """

    name: str
    is_weight: bool
    before: Range
    after: Range


def range_of(value: Tensor, dtype: torch.dtype) -> Range:
    """The range of a tensor; elements that stand for infinity are left out."""
    size = value.detach().abs().double()
    size = size[size < MASK]
    limits = torch.finfo(dtype)
    if not size.numel():
        return Range()
    below = (size > 0) & (size < limits.tiny)
    return Range(float(size.max()), int((size > limits.max).sum()), int(below.sum()))


@checked
def range_report(
    plan: Analysis, cob: ChangeOfBasis, data: Iterable[Any], dtype: torch.dtype = torch.float16
) -> list[RangeRow]:
    """The ranges of every value and weight without and with a change of basis, measured on data.

    The values are those of the model's own format. Values that only exist in the emitted network (the divided input of
    an activation, say) are not listed.

    Raises:
        InputError: the data are empty or do not fit the model.
        CobError: the change of basis is not valid for this plan.
    """
    kept = list(data)
    measured: list[dict[tuple[str, bool], Range]] = []
    for basis in (identity(plan), cob):
        network = rewrite(plan, basis)
        ranges = {(name, False): value for name, value in of_values(network, kept, dtype).items()}
        for name, tensor in network.state_dict().items():
            if name in plan.captured.canonical and tensor.is_floating_point():
                ranges[name, True] = range_of(tensor, dtype)
        measured.append(ranges)
    before, after = measured
    return [RangeRow(*key, before[key], after[key]) for key in before if key in after]


def of_values(network: fx.GraphModule, data: Iterable[Any], dtype: torch.dtype) -> dict[str, Range]:
    """The ranges of a network's floating-point values, by captured node name."""
    ranges: dict[str, Range] = {}

    def note(node: fx.Node, value: Tensor) -> None:
        name = info(node).captured
        if name:
            ranges[name] = ranges.get(name, Range()) | range_of(value, dtype)

    run_each(network, data, note)
    return ranges


@torch.no_grad()
def run_each(network: fx.GraphModule, data: Iterable[Any], note: Callable[[fx.Node, Tensor], None]) -> None:
    """Run a network on data; `note` is called with each node and its value, if it is a floating-point tensor.

    Raises:
        InputError: the data are empty or do not fit the model.
    """
    names = [str(n.target) for n in network.graph.nodes if n.op == "placeholder"]
    watched, count = _Watched(network, note), 0
    for args, kwargs in batches(data):
        try:
            watched.run(*args, *(kwargs[name] for name in names[len(args) :] if name in kwargs))
        except Exception as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"the model does not run on the data's batch {count}: {said}") from error
        count += 1
    if not count:
        raise InputError("the data hold no batch: pass an iterable of batches, each as the model's forward takes it")


class _Watched(fx.Interpreter):
    """Runs a network, and reports its floating-point values."""

    def __init__(self, network: fx.GraphModule, note: Callable[[fx.Node, Tensor], None]) -> None:
        super().__init__(plain(network), graph=network.graph)
        self.note = note

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point() and n.op not in ("get_attr", "output"):
            self.note(n, value)
        return value
