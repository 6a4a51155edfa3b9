"""Ranges: refuses a change of basis that would push weights out of their number format, before it is applied.

The check needs each weight's largest magnitude. Reading that takes half as long as scaling the weight, so it is read
only where the factors are so far from 1 (`_ROOM`) that an ordinary weight could leave its format.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxteleport.passes.domain.cob_map import ANY, CobMap
from fxteleport.passes.domain.solution import Solution
from fxteleport.passes.errors import CobError

# Factors within 2**-room .. 2**room keep any weight of 2**-78 .. 2**79 in the format (float64: 2**-700 .. 2**700), so
# no weight is read. float16 has no such room.
_ROOM = {
    torch.float64: 320.0,
    torch.complex128: 320.0,
    torch.float32: 48.0,
    torch.complex64: 48.0,
    torch.bfloat16: 48.0,
}
_SMALL = 2.0**5  # a tensor less than this times the smallest normal number may go below it, but not vanish


def widest(values: Tensor) -> float:
    """The largest |log2| of CoB values, float64 [num_free]."""
    if not values.numel():
        return 0.0
    sizes = values.detach().abs()
    return max(math.log2(float(sizes.max())), -math.log2(float(sizes.min())))


def has_room(dtypes: Iterable[torch.dtype], doublings: float) -> bool:
    """True if no weight needs to be read, given factors of at most so many doublings (or halvings)."""
    return all(doublings <= _ROOM.get(dtype, -1.0) for dtype in dtypes)


@dataclass(frozen=True)
class Reach:
    """The range of a tensor's factors under one CoB, and of how many free values they are products at most."""

    low: float
    high: float
    degree: int


def reach(cob: CobMap, tau: Tensor, solution: Solution) -> Reach:
    """Bounds of a map's factors: products of the bounds for rows and for columns, in O(neurons)."""
    by_shape: dict[torch.Size, Tensor] = {}
    for symbols, exponent in cob.factors:
        value = torch.where(symbols == ANY, 1.0, tau[symbols].abs() ** exponent)
        by_shape[symbols.shape] = by_shape[symbols.shape] * value if symbols.shape in by_shape else value
    lows, highs = ([float(f(v)) for v in by_shape.values() if v.numel()] for f in (torch.min, torch.max))
    return Reach(math.prod(lows), math.prod(highs), map_degree(cob, solution))


def map_degree(cob: CobMap, solution: Solution) -> int:
    """The largest number of free values of which an element of a map is a product."""
    degrees = _degrees(solution)
    return sum(abs(exponent) * int(degrees[s.numpy()].max()) for s, exponent in cob.factors if s.numel())


@functools.lru_cache(maxsize=8)
def _degrees(solution: Solution) -> Any:
    """The number of free values of which each symbol is a product, int64 [symbols]."""
    counts = (solution.index < solution.num_free).astype(np.int64)
    if len(solution.many):
        terms = np.where(solution.many_index < solution.num_free, np.abs(solution.many_exponent), 0)
        counts[solution.many] = terms.sum(1)
    return counts


def largest(tensor: Tensor) -> float:
    """The largest finite magnitude in a tensor."""
    if tensor.dtype in _HALF and tensor.device.type == "cpu" and tensor.numel():
        size = _largest_half(tensor)
        if math.isfinite(size):
            return size
    parts = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    if not parts.numel():
        return 0.0
    low, high = torch.aminmax(parts)
    size = float(torch.maximum(high, -low))
    return size if math.isfinite(size) else float(torch.where(parts.isfinite(), parts, 0).abs().max())


_HALF = (torch.float16, torch.bfloat16)


def _largest_half(tensor: Tensor) -> float:
    """The largest magnitude, from the bits: read as integers, floats of one sign are ordered by magnitude.

    Integers of 16 bits are compared many at a time, where each float of 16 bits would be converted first.
    """
    bits = tensor.view(torch.int16).numpy()
    positive = max(int(bits.max()), 0)
    highest = int(bits.view(np.uint16).max())  # the largest negative one, if there is any: its first bit is set
    negative = highest - 0x8000 if highest >= 0x8000 else 0
    magnitude = torch.tensor(max(positive, negative), dtype=torch.int16, device="cpu")
    return float(magnitude.view(tensor.dtype))


@dataclass(frozen=True)
class Format:
    """The largest number of a number format, its smallest normal one, and its smallest one."""

    largest: float
    normal: float
    smallest: float

    @classmethod
    def of(cls, dtype: torch.dtype) -> Format:
        info = torch.finfo(dtype)
        return cls(info.max, info.smallest_normal, info.smallest_normal * info.eps)

    def lowest(self, size: float) -> float:
        """The bound above which the largest element of a tensor must stay."""
        return self.normal if size >= _SMALL * self.normal else self.smallest


def require_range(
    sizes: Mapping[str, tuple[float, torch.dtype]], maps: Mapping[str, CobMap], tau: Tensor, solution: Solution
) -> None:
    """Raise CobError if a CoB would push a tensor out of its number format.

    A tensor is out of it if its largest element times its largest factor is not finite, or times its smallest factor is
    below the smallest normal number: then rounding would lose more than in the original. So is a tensor with a factor
    that is 0 or infinite in its format.

    Args:
        sizes: name -> the largest magnitude in the tensor, and its format, for each scaled tensor.
        maps: their CoB maps, by name.
        tau: the CoB of every symbol, float64.
    """
    tau = tau.detach().cpu()
    wrong: tuple[str, str, float, Reach] | None = None
    room = math.inf  # how many doublings of each free value all tensors tolerate
    for name, (size, dtype) in sizes.items():
        bounds, number_format = reach(maps[name], tau, solution), Format.of(dtype)
        if not bounds.degree:
            continue
        size = size or number_format.normal * _SMALL  # zeros stay zeros under any factor that is a number
        above, below = math.log2(number_format.largest / size), math.log2(size / number_format.lowest(size))
        room = min(room, max(0.0, min(above, below) / bounds.degree), math.log2(number_format.largest) / bounds.degree)
        fits = bounds.low >= number_format.smallest and bounds.high <= number_format.largest
        fits = fits and bounds.high * size <= number_format.largest and bounds.low * size >= number_format.lowest(size)
        if not fits and wrong is None:
            wrong = name, str(dtype).removeprefix("torch."), size, bounds
    if wrong is None:
        return
    name, format_name, size, bounds = wrong
    reaches = math.floor(room * 1000) / 1000
    raise CobError(
        f"this change of basis pushes '{name}' out of {format_name}: its largest element is {size:.3g}, its factors are"
        f" {bounds.low:.3g} to {bounds.high:.3g}. CoB values of size {2**-reaches:.6g} to {2**reaches:.6g} fit the"
        f" model (landscape 'log': a CoB range of at most {math.floor(reaches * math.log(2) * 1000) / 1000:g})"
    )
