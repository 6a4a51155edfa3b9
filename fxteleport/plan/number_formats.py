"""Number formats: refuses a change of basis that would push tensors out of theirs (see `passes.scale.format_range`).

The values of weights are read only where the CoB is so far from 1 that an ordinary weight could leave its format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from fxteleport.passes.graph.dtensor import is_sharded
from fxteleport.passes.scale import format_range
from fxteleport.plan.analysis import Analysis
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.factors import tau


def has_room(plan: Analysis, dtypes: Iterable[torch.dtype], cob: ChangeOfBasis) -> bool:
    """True if this CoB is so near to 1 that no weight of these formats needs to be read."""
    return format_range.has_room(dtypes, format_range.widest(cob.values) * plan.degree)


def require_range(plan: Analysis, cob: ChangeOfBasis, tensors: Mapping[str, Tensor], operations: bool = False) -> None:
    """Raise CobError if a CoB would push tensors out of their number formats.

    Args:
        tensors: by the model's names. For a sharded tensor, of which no device has all values, the largest magnitude is
            taken to be 1, so that all devices decide alike.
        operations: the CoBs of wraps must fit the formats of the values that they scale, too.
    """
    scaled = {name: t for name, t in tensors.items() if name in plan.recipe.factors}
    dtypes = {t.dtype for t in scaled.values()} | {d for _, d in plan.operation_cobs.values() if operations}
    if not has_room(plan, dtypes, cob):
        sizes = {n: (1.0 if is_sharded(t) else format_range.largest(t.detach()), t.dtype) for n, t in scaled.items()}
        require_sizes(plan, cob, sizes, operations)


def require_sizes(
    plan: Analysis, cob: ChangeOfBasis, sizes: Mapping[str, tuple[float, torch.dtype]], operations: bool = False
) -> None:
    """As `require_range`, for tensors with known largest magnitudes and formats."""
    maps = {name: plan.constrained.tensors[plan.captured.canonical[name]] for name in sizes}
    if operations:
        sizes = dict(sizes) | {name: (1.0, dtype) for name, (_, dtype) in plan.operation_cobs.items()}
        maps |= {name: cob_map for name, (cob_map, _) in plan.operation_cobs.items()}
    format_range.require_range(sizes, maps, tau(plan, cob), plan.solution)
