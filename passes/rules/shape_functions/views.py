"""Views: the same elements under other axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fxteleport.passes.domain.size import Extent, Size, product
from fxteleport.passes.rules.shape_functions.sized import At, Shape, Sized


def reshaped(at: At, input: Sized, *rest: Any, **settings: Any) -> Shape | None:
    """view, reshape, flatten, unflatten, squeeze, unsqueeze and their like."""
    name, old, shape = at.name, list(input.sizes), at.value.shape
    if isinstance(at.target, (nn.Flatten, nn.Unflatten)):
        flat = isinstance(at.target, nn.Flatten)
        name = "flatten" if flat else "unflatten"
        rest = (at.target.start_dim, at.target.end_dim) if flat else (at.target.dim, at.target.unflattened_size)
    given = [*rest, *settings.values()]
    if name in ("view", "reshape"):
        wanted = given[0] if len(given) == 1 and isinstance(given[0], (list, tuple)) else given
        if any(type(n) not in (int, Size) for n in wanted):
            return None
        return _completed(at, product(old), wanted, shape)
    if name in ("view_as", "reshape_as"):
        return list(given[0].sizes)
    if name in ("flatten", "ravel"):
        start, end = [*given, 0, -1][:2] if len(given) != 1 else (given[0], -1)
        rank = max(len(old), 1)
        start, end = start % rank, end % rank
        return [*old[:start], product(old[start : end + 1]), *old[end + 1 :]] if old else [1]
    if name == "unflatten":
        axis, sizes = given[0] % len(old), given[1]
        inner = _completed(at, old[axis], sizes, shape[axis : axis + len(sizes)])
        return [*old[:axis], *inner, *old[axis + 1 :]]
    if name == "unsqueeze":
        axis = given[0] % (len(old) + 1)
        return [*old[:axis], 1, *old[axis:]]
    if name == "squeeze":
        dims = given[0] if given else range(len(old))
        axes = {d % len(old) for d in ([dims] if isinstance(dims, int) else dims)} if old else set()
        return [n for i, n in enumerate(old) if not (i in axes and input.value.shape[i] == 1)]
    return None


def _completed(at: At, count: Extent, wanted: Sequence[Extent], shape: Sequence[int]) -> Shape:
    """Sizes of which one may be -1: what is left of `count` elements."""
    missing = [i for i, n in enumerate(wanted) if n == -1]
    if not missing:
        at.sizes.insist(count, product(wanted))
        return list(wanted)
    (i,) = missing
    return [*wanted[:i], at.sizes.share(count, [n for n in wanted if n != -1], shape[i]), *wanted[i + 1 :]]


def permuted(at: At, input: Sized, *rest: Any, **settings: Any) -> Shape | None:
    """The operation itself, on axes of sizes that tell them apart."""
    if any(type(x) in (Size, Sized) for x in (*rest, *settings.values())):
        return None
    tagged = torch.empty([i + 2 for i in range(len(input.sizes))], device="meta")
    if at.target is getattr:
        moved = getattr(tagged, *rest)
    else:
        fn = getattr(tagged, at.target) if isinstance(at.target, str) else None
        moved = fn(*rest, **settings) if fn is not None else at.target(tagged, *rest, **settings)
    return [input.sizes[n - 2] for n in moved.shape]


def expanded(at: At, input: Sized, *rest: Any, **settings: Any) -> Shape | None:
    """expand, expand_as, broadcast_to."""
    given = [*rest, *settings.values()]
    if len(given) == 1 and type(given[0]) is Sized:  # expand_as
        return given[0].sizes
    wanted = given[0] if len(given) == 1 and isinstance(given[0], (list, tuple)) else given
    if any(type(n) not in (int, Size) for n in wanted):
        return None
    behind = [1] * (len(wanted) - len(input.sizes)) + list(input.sizes)
    return [m if n == -1 else n for m, n in zip(behind, wanted, strict=True)]


def restrided(at: At, input: Sized, size: Any, *rest: Any, **settings: Any) -> Shape | None:
    """as_strided: the sizes are given."""
    return list(size) if all(type(n) in (int, Size) for n in size) else None
