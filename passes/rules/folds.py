"""Folds: maps that vary along an axis whose size other inputs change.

A reshape may put an axis of known size together with unknown ones: heads into the batch, [b, 8, n, d] -> [b * 8, n, d].
The map then varies along the new axis, but along its known parts only, and a later reshape takes the parts apart
again. Such an axis is a *fold*: its parts from the outside in, the product of which is its size. The map holds the
symbols of the example.

A rule says which axes its operation leaves as they are, position by position (`@rule(..., along=...)`). Along such an
axis the call treats the positions of any other input as it treats those of the example, so its result has the same
fold. For any other call, all positions of a fold get one CoB.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fxteleport.passes.domain.cob_map import Block, CobMap, Parts, reshape
from fxteleport.passes.domain.constraints import Origin, System
from fxteleport.passes.domain.size import Extent, Size, product, quotient
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.operand import Operand, Unknown

Along = Callable[[Call, Operand], Sequence[int | None]]  # the axis of the result that each axis of an operand becomes
_UNCLEAR = "other inputs have more or fewer of these positions"


# -- which axes a call leaves as they are ---------------------------------------------------------------


def itself(call: Call, operand: Operand) -> Sequence[int | None]:
    """Marks a reshape: its rule takes folds apart and makes new ones itself."""
    raise NotImplementedError


def elementwise(call: Call, operand: Operand) -> Sequence[int | None]:
    """Element by element, broadcast from the last axis on."""
    return range(call.value.ndim - operand.rank, call.value.ndim)


def batched(call: Call, operand: Operand) -> Sequence[int | None]:
    """Matrices in the last two axes; in attention groups of heads may share one more."""
    tensors = [x for x in (*call.args, *call.kwargs.values()) if isinstance(x, Operand)]
    if call.value.ndim != max(x.rank for x in tensors) or min(x.rank for x in tensors) < 2:
        return [None] * operand.rank
    mixed = 3 if call.kwargs.get("enable_gqa") else 2
    return [*elementwise(call, operand)[: max(operand.rank - mixed, 0)], *[None] * min(mixed, operand.rank)]


def permuted(call: Call, operand: Operand) -> Sequence[int | None]:
    """The operation itself, on axes of sizes that tell them apart."""
    axes = call.rerun({operand: torch.empty([i + 2 for i in range(operand.rank)], device="meta")}).shape
    return [list(axes).index(i + 2) for i in range(operand.rank)]


def padded(call: Call, operand: Operand) -> Sequence[int | None]:
    """All axes but the padded ones; `pad` begins with the last axis."""
    pad: Any = call.kwargs.get("pad", call.args[1] if len(call.args) > 1 else ())
    return [None if any(pad[2 * i : 2 * i + 2]) else operand.rank - 1 - i for i in reversed(range(operand.rank))]


def by_group(call: Call, operand: Operand) -> Sequence[int | None]:
    """A convolution whose groups run over the examples of a batch: each example has a weight of its own.

    Its input is [1, b * in, *k] and its weight [b * out, in / groups, *k], in b * groups groups, with b the unknown
    batch size. The output's channels fold as the weight's rows do; the input's are summed over (`WITHIN`).
    """
    axes: list[int | None] = [None] * operand.rank
    input, weight, bias = (_argument(call, i, name) for i, name in enumerate(("input", "weight", "bias")))
    if not (
        grouped_by_batch(input, weight, groups := _argument(call, 6, "groups")) and operand in (input, weight, bias)
    ):
        return axes
    axis, becomes = (1, WITHIN) if operand is input else (0, 1)
    parts = dict(operand.folds).get(axis, ())
    batch = product(itertools.takewhile(lambda n: type(n) is Size, parts))
    if all(type(quotient(n, batch)) is int for n in (operand.sizes[axis], groups.size)):
        axes[axis] = becomes
    return axes


WITHIN = -1  # in place of a result's axis: the call takes the fold apart itself, and it is no axis of the result


def grouped_by_batch(input: Any, weight: Any, groups: Any) -> bool:
    """True where the groups, input channels and output channels of a convolution are multiples of one unknown batch."""
    if not (isinstance(input, Operand) and isinstance(weight, Operand) and isinstance(groups, Unknown)):
        return False
    batch = quotient(groups.size, math.gcd(*(c for _, c in groups.size.terms)))
    sizes = (groups.size, input.sizes[1], weight.sizes[0])
    return input.rank == weight.rank and batch is not None and all(type(quotient(n, batch)) is int for n in sizes)


def _argument(call: Call, index: int, name: str) -> Any:
    return call.kwargs.get(name, call.args[index] if len(call.args) > index else None)


def picked(call: Call, operand: Operand) -> Sequence[int | None]:
    """Parts of one axis, or some positions of each."""
    none = [None] * operand.rank
    if call.args[:1] != (operand,):
        return none
    if call.name == "getitem":
        return _indexed(call.args[1], operand.rank) or none
    at = {"unbind": 1, "select": 1, "narrow": 1, "chunk": 2, "split": 2, "split_with_sizes": 2}.get(call.name)
    dim = call.kwargs.get("dim", call.args[at] if at and len(call.args) > at else 0)
    if at is None or type(dim) is not int:
        return none
    gone = call.name in ("unbind", "select")
    dim %= operand.rank
    return [None if i == dim else i - (gone and i > dim) for i in range(operand.rank)]


def _indexed(index: Any, rank: int) -> Sequence[int | None] | None:
    """For `x[index]`, which axis of the result each axis becomes; None unless it has slices and numbers alone."""
    items = index if isinstance(index, tuple) else (index,)
    if not all(item is None or item is ... or type(item) in (int, slice) for item in items):
        return None
    named = sum(type(item) in (int, slice) for item in items)
    axes: list[int | None] = []
    at = 0  # the next axis of the result
    for item in items if ... in items else (*items, ...):
        if item is ...:
            axes += range(at, at + rank - named)
            at += rank - named
        elif type(item) is int:
            axes.append(None)
        else:
            if item is not None:
                axes.append(at if item == slice(None) else None)
            at += 1
    return axes


# -- through a call --------------------------------------------------------------------------------------


def through(call: Call, along: Along | None, operands: Iterable[Operand]) -> dict[int, Parts]:
    """The folds that the result of a call has; operands get one CoB along those that it does not leave as they are."""
    held = [(operand, axis, parts) for operand in operands for axis, parts in operand.folds]
    if not held or along is itself:
        return {}
    wanted = [along(call, operand)[axis] if along is not None else None for operand, axis, _ in held]
    resulting: dict[int, Parts] = {}
    for (operand, axis, parts), to in zip(held, wanted, strict=True):
        others = {other for (_, _, other), axis_of_other in zip(held, wanted, strict=True) if axis_of_other == to}
        if to == WITHIN:
            continue
        if to is None or len(others) > 1:
            operand.unfold(call.state.system, axis, call.origin(_UNCLEAR))
        else:
            resulting[to] = parts
    return resulting


def kept(
    system: System, cob: CobMap, shape: Sequence[int], axis: int, parts: Parts, inner: Sequence[int], origin: Origin
) -> CobMap:
    """The map with one CoB along the unknown parts of an axis, which have the sizes `inner` in the example."""
    fine = (*shape[:axis], *inner, *shape[axis + 1 :])
    more = len(inner) - 1
    blocks: list[Block] = [
        ([i], list(range(i, i + more + 1)) if i == axis else [i + more * (i > axis)]) for i in range(len(shape))
    ]
    taken = cob.each(lambda s: reshape(s, shape, fine, blocks))
    unknown = [axis + i for i, n in enumerate(parts) if type(n) is Size]
    if not any(map(taken.varies, unknown)):
        return cob
    taken = system.constant(taken, unknown, origin)
    back = [(to, rows) for rows, to in blocks]
    return taken.each(lambda s: reshape(s, fine, shape, back))


# -- through a reshape -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fine:
    """A tensor viewed with each part of its folds as an axis."""

    cob: CobMap
    sizes: tuple[Extent, ...]
    shape: tuple[int, ...]


def apart(call: Call, operand: Operand) -> Fine:
    """An operand with its folds taken apart."""
    old, folds = tuple(operand.shape), dict(operand.folds)
    if not folds:
        return Fine(operand.map, operand.sizes, old)
    parts = [folds.get(i, (n,)) for i, n in enumerate(operand.sizes)]
    shape = tuple(call.example(n) for held in parts for n in held)
    ends = list(itertools.accumulate(map(len, parts), initial=0))
    blocks: list[Block] = [([i], list(range(*ends[i : i + 2]))) for i in range(operand.rank)]
    return Fine(operand.map.each(lambda s: reshape(s, old, shape, blocks)), tuple(itertools.chain(*parts)), shape)


def recut(call: Call, given: Fine, blocks: Sequence[Block], mixed: Sequence[bool]) -> CobMap | None:
    """The map of a reshape, folded where known axes are merged with unknown ones; None where the parts are unclear.

    Args:
        blocks: runs of axes with equal products, before and after.
        mixed: for each block, whether axes along which the map varies are merged with unknown ones.
    """
    target, new = call.sizes, tuple(call.value.shape)
    columns: list[Parts] = []  # of each axis of the result
    finer: list[Block] = []  # axes before, parts after; along axes that go nowhere, and new ones, nothing varies
    for (rows, to), fold in zip(blocks, mixed, strict=True):
        at = sum(map(len, columns))
        if not fold:
            columns += [(target[j],) for j in to]
            finer.append((list(rows), list(range(at, at + len(to)))))
            continue
        moving = [i for i in rows if given.cob.varies(i)]
        cut = _cut(call, [given.sizes[i] for i in rows], [rows.index(i) for i in moving], [target[j] for j in to])
        if cut is None:
            return None
        columns += cut[0]
        spans = {i: list(range(at + first, at + last)) for i, (first, last) in zip(moving, cut[1], strict=True)}
        for i in rows:
            after = spans.get(i, [])
            finer += [([], list(range(at, after[0] if after else at))), ([i], after)]
            at = after[-1] + 1 if after else at
        finer.append(([], list(range(at, sum(map(len, columns))))))
    shape = [call.example(n) for parts in columns for n in parts]
    ends = list(itertools.accumulate(map(len, columns), initial=0))
    joins: list[Block] = [(list(range(*ends[j : j + 2])), [j]) for j in range(len(new))]
    cob = given.cob.each(lambda s: reshape(reshape(s, given.shape, shape, finer), shape, new, joins))
    folds = [(j, parts) for j, parts in enumerate(columns) if len(parts) > 1 and cob.varies(j)]
    return CobMap(cob.factors, cob.zeros, tuple(f for f in folds if type(target[f[0]]) is Size))


def _cut(
    call: Call, rows: Sequence[Extent], moving: Sequence[int], columns: Sequence[Extent]
) -> tuple[list[Parts], list[tuple[int, int]]] | None:
    """Cut the new axes (`columns`) wherever one of them, or a moving old axis (`rows`), begins or ends.

    Each cut is the product of the sizes before it, and must divide the next.

    Returns:
        the parts of each new axis, and the range of parts that each moving old axis covers; None where a cut does not
        divide the next.
    """
    before, ends = ([call.settled(product(sizes[:i])) for i in range(len(sizes) + 1)] for sizes in (rows, columns))
    around = [(before[i], before[i + 1]) for i in moving]
    marks = sorted({*ends, *itertools.chain(*around)}, key=lambda n: (call.example(n), _degree(n)))
    quotients = [quotient(b, a) for a, b in itertools.pairwise(marks)]
    parts = [n for n in quotients if n is not None]
    if before[-1] != ends[-1] or len(parts) < len(quotients) or 0 in map(call.example, parts):
        return None
    at = {n: i for i, n in enumerate(marks)}
    cut: list[Parts] = [tuple(parts[at[a] : at[b]]) for a, b in itertools.pairwise(ends)]
    return cut, [(at[a], at[b]) for a, b in around]


def _degree(size: Extent) -> int:
    return max(len(atoms) for atoms, _ in size.terms) if isinstance(size, Size) else 0
