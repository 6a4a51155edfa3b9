"""Probing: how the sizes of a result depend on those of the arguments, found by running the operation on other sizes.

It runs on meta tensors, which have no values. An axis that does not change is known; one that grows with one size of
the arguments is that size; any other is a new unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxteleport.passes.capture.meta_values import META
from fxteleport.passes.domain.size import Size, Sizes
from fxteleport.passes.graph.structure import PLAIN
from fxteleport.passes.rules.shape_functions import Sized

_FACTORS = (2, 3, 5, 7, 11, 13)  # sizes are multiplied by these, so their divisors still divide them


def probed(sizes: Sizes, fn: Callable[..., Any], value: Any, args: Any, kwargs: Any) -> Any:
    """The shapes of a result, by running the operation on three other sets of sizes; None where it does not run.

    Args:
        fn: the operation.
        value: its result for the example.
        args, kwargs: its arguments, with `Sized` for tensors and `Size` for numbers that other inputs change.
    """
    leaves = sized_leaves((args, kwargs))
    given = {size for x in leaves for size in (x.sizes if type(x) is Sized else (x,)) if type(x) in (Sized, Size)}
    free = [size for size in given if type(size) is Size]
    atoms = sorted({atom for size in free for monomial, _ in size.terms for atom in monomial})
    examples = sizes.examples
    for apart in (1, 0):  # each unknown grows by a factor of its own, or all by one
        tables = [
            {a: (examples[a] or 1) * _FACTORS[(k + apart * i) % len(_FACTORS)] for i, a in enumerate(order)}
            for k, order in ((0, atoms), (1, atoms), (0, atoms[::-1]))  # of two, each is the larger one once
        ]
        try:
            outs = [fn(*given, **named) for given, named in (_resized(sizes, (args, kwargs), t) for t in tables)]
        except Exception:
            continue
        return _read_off(
            sizes, value, [(sized_leaves(out), table) for out, table in zip(outs, tables, strict=True)], free
        )
    return None


def _resized(sizes: Sizes, x: Any, table: dict[int, Any]) -> Any:
    """An argument structure with meta tensors and numbers of other sizes."""

    def put(x: Any) -> Any:
        if isinstance(x, slice):
            return slice(put(x.start), put(x.stop), put(x.step))
        if type(x) is Sized:
            shape = [sizes.value(n, table) for n in x.sizes]
            return torch.empty(shape, dtype=x.value.dtype, device=META)
        return sizes.value(x, table)

    return pytree.tree_map(put, x)


def _read_off(sizes: Sizes, value: Any, seen: Sequence[tuple[list[Any], dict[int, Any]]], free: Sequence[Size]) -> Any:
    """The shapes of a result, by comparing it with the results for other sizes."""

    def axis(k: int, i: int, n: int) -> Any:
        others = [out[k].shape[i] for out, _ in seen]
        if all(m == n for m in others):
            return n
        fits = [s for s in free if all(sizes.value(s, t) == m for m, (_, t) in zip(others, seen, strict=True))]
        return fits[0] if len(fits) == 1 else sizes.fresh(n)

    parts = sized_leaves(value)
    if any([getattr(p, "ndim", 0) for p in out] != [getattr(p, "ndim", 0) for p in parts] for out, _ in seen):
        return None  # parts, or axes, come and go
    shapes = [
        [axis(k, i, n) for i, n in enumerate(part.shape)] if isinstance(part, Tensor) else None
        for k, part in enumerate(parts)
    ]
    return shapes[0] if isinstance(value, Tensor) else shapes if len(shapes) == len(value) else None


def sized_leaves(x: Any) -> list[Any]:
    """The leaves of an argument structure; a `Sized` is one."""
    leaves: list[Any] = []
    _collect(x, leaves)
    return leaves


def _collect(x: Any, leaves: list[Any]) -> None:
    kind = type(x)
    if kind is Sized or kind in PLAIN:
        leaves.append(x)
        return
    if kind is slice:
        x = (x.start, x.stop, x.step)
    elif issubclass(kind, dict):
        x = x.values()
    elif not issubclass(kind, (tuple, list)):
        leaves.append(x)
        return
    for item in x:
        if type(item) is Sized or type(item) in PLAIN:
            leaves.append(item)
        else:
            _collect(item, leaves)
