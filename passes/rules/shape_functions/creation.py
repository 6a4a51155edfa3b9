"""Tensors that are made of numbers: zeros, arange and their like."""

from __future__ import annotations

from typing import Any

from fxteleport.passes.domain.size import Size, plus
from fxteleport.passes.rules.shape_functions.sized import At, Shape, Sized


def made(at: At, *given: Any, **settings: Any) -> Shape | None:
    """zeros, ones, new_zeros and their like: the sizes are given as numbers, or those of a tensor are taken."""
    given = given if not given or type(given[0]) is not Sized or not at.name.startswith("new_") else given[1:]
    if given and type(given[0]) is Sized:
        return given[0].sizes
    wanted = given[0] if given and isinstance(given[0], (list, tuple)) else given
    wanted = settings.get("size", wanted)
    rank = at.value.ndim
    wanted = list(wanted)[:rank] if isinstance(wanted, (list, tuple)) else [wanted]
    return wanted if len(wanted) == rank and all(type(n) in (int, Size) for n in wanted) else None


def ranged(at: At, *given: Any, **settings: Any) -> Shape | None:
    """arange of whole numbers: as many as there are from the first to the last."""
    numbers = [x for x in given if type(x) in (int, Size)]
    if len(numbers) != len(given) or not 0 < len(numbers) < 3:
        return None
    return [plus(numbers[-1], numbers[0], -1) if len(numbers) == 2 else numbers[0]]
