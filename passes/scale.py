"""Scale a tensor in place by its CoB map: one pass over memory, no factor of the tensor's own size.

A weight's factor is an outer product of small vectors. Where that product is small beside the weight it is
formed; otherwise the weight is scaled by each vector in turn, block by block, so that a block is still in the
processor's cache when it is scaled again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxteleport.passes.maps import CobMap, support

_BLOCK = 1 << 18  # bytes of a weight handled at a time on the CPU; on a GPU the cache is larger
_SMALL = 4  # the product is formed where it has at most 1/4 of the weight's elements


def small_factors(cob: CobMap, tau: Tensor) -> list[Tensor]:
    """The map's factors as numbers, those on the same axes multiplied together."""
    merged: dict[frozenset[int], Tensor] = {}
    for symbols, exponent in cob.factors:
        value = CobMap(((symbols, exponent),)).scale(tau)
        assert value is not None
        axes = support(symbols)
        merged[axes] = merged[axes] * value if axes in merged else value
    return [v for v in merged.values() if not bool((v == 1).all())]


@torch.no_grad()
def scale_(tensor: Tensor, cob: CobMap, tau: Tensor) -> Tensor:
    """Multiply `tensor` by `tau[cob]` in place and return it.

    Half precision is scaled in float32, so that only the result is rounded.
    """
    kind = tensor.dtype if tensor.dtype in (torch.float64, torch.complex128) else torch.float32
    real = kind if not kind.is_complex else torch.float64
    factors = [f.to(device=tensor.device, dtype=real) for f in small_factors(cob, tau)]
    if not factors:
        return tensor
    total = torch.broadcast_shapes(*(f.shape for f in factors))
    if len(factors) == 1 or total.numel() * _SMALL <= tensor.numel():
        factor = factors[0]
        for other in factors[1:]:
            factor = factor * other
        return tensor.mul_(factor)
    if tensor.numel() * tensor.element_size() <= 2 * _BLOCK or not tensor.is_contiguous():
        for factor in factors:
            tensor.mul_(factor)
        return tensor
    rows = max(1, _BLOCK * (64 if tensor.is_cuda else 1) // (tensor[0].numel() * tensor.element_size()))
    for start in range(0, len(tensor), rows):
        block = tensor[start : start + rows]
        for factor in factors:
            block.mul_(factor[start : start + rows] if len(factor) > 1 else factor)
    return tensor
