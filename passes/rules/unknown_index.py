"""Unknown positions: an index, a number or a size that other inputs change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxteleport.passes.domain.cob_map import ANY, CobMap, compress
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.equivariant import axes_of
from fxteleport.passes.rules.operand import Operand, Unknown


def is_unknown(x: Any) -> bool:
    return isinstance(x, Unknown) or (isinstance(x, Operand) and x.value.is_meta)


def leaves_of_index(x: Any) -> list[Any]:
    """The leaves of an argument structure, those of slices too."""
    leaves = pytree.tree_leaves(x)
    return [y for leaf in leaves for y in ((leaf.start, leaf.stop, leaf.step) if isinstance(leaf, slice) else (leaf,))]


def picked(call: Call, input: Operand, unknown: Sequence[Operand | Unknown], *rest: Any, **settings: Any) -> Any:
    """Positions that sizes or data pick: all that may be picked share one CoB, so the example's stand for any."""
    indices = [x for x in unknown if isinstance(x, Operand)]
    if any(i.value.dtype in (torch.bool, torch.uint8) for i in indices):
        call.decline("it is picked by a mask that is not known before the run")
    axes = _axes_read(call, input.rank, rest, settings)
    cob = call.constant(input.map, axes, "which of these positions is taken is not known before the run")
    if not isinstance(call.value, Tensor):  # parts, cut along an axis
        all_axes = len(axes) == input.rank  # along which axis they are cut may be what is not known
        return pytree.tree_map(lambda p: cob.each(lambda s: s.reshape((1,) * p.ndim)) if all_axes else cob, call.value)
    zeros = {index: torch.zeros(tuple(index.shape), dtype=index.value.dtype) for index in indices}
    shape = tuple(input.shape)
    taken = cob.each(lambda s: compress(call.rerun({input: s.expand(shape), **zeros}, guessing=True)))
    return CobMap(taken.factors, cob.zeros or any(bool((s == ANY).any()) for s, _ in taken.factors))


# The index of the axis among the arguments after the input, and its default.
_AXIS: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys(("narrow", "select", "index_select", "gather", "unfold"), (0, None)),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split"), (1, 0)),
    **dict.fromkeys(("take_along_dim", "repeat_interleave"), (1, None)),
}


def _axes_read(call: Call, rank: int, rest: Sequence[Any], settings: dict[str, Any]) -> list[int]:
    """The axes along which an unknown number or index of a call picks."""
    name = call.name
    if name == "getitem":
        return axes_indexed(rest[0], rank)
    if name in ("repeat", "tile"):
        counts = rest[0] if len(rest) == 1 and isinstance(rest[0], list) else [*rest, *settings.values()]
        return [rank - 1 - i for i, n in enumerate(reversed(counts)) if isinstance(n, Unknown) and i < rank]
    if name in _AXIS:
        index, default = _AXIS[name]
        dim = settings.get("dim", settings.get("axis", rest[index] if len(rest) > index else default))
        if isinstance(dim, int):
            return axes_of(dim, rank)
    if name == "roll" and len(rest) > 1 and not any(map(is_unknown, leaves_of_index(rest[1]))):
        return axes_of(rest[1], rank)
    return list(range(rank))


def axes_indexed(index: Any, rank: int) -> list[int]:
    """The axes that `x[index]` reads at positions unknown before the run: by tensors and numbers."""
    items = index if isinstance(index, tuple) else (index,)
    axes, axis = list[int](), 0
    for item in items:
        span = rank - sum(map(span_of, items)) if item is ... else span_of(item)
        if any(isinstance(x, (Operand, Unknown)) for x in leaves_of_index(item)):
            axes += range(axis, axis + span)
        axis += span
    return axes


def span_of(item: Any) -> int:
    """How many axes one item of an index stands for: a mask for as many as it has."""
    if isinstance(item, Operand) and item.value.dtype in (torch.bool, torch.uint8):
        return item.rank
    return 0 if item is None or item is ... or isinstance(item, bool) else 1
