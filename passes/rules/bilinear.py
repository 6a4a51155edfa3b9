"""Bilinear: products of two activations (mul, div, matmul, einsum, attention).

A product's map is the product of its factors' maps: no constraint, no rewriting. Over a contracted axis the
product must be constant; in attention the CoB of q is therefore the inverse of k's, by head and dimension.

Only products, quotients and square roots are exact under powers of two. So a power passes if torch computes it by
multiplication (`_EXACT`). The others call a `pow` whose last bit depends on the binary exponent: they are wrapped, and
pinned in `mode="weights"`.

A quotient by zero is infinite with the sign of the zero. A sum that cancels is +0 whatever the CoB (IEEE 754), and a
graph does not tell which zeros come from sums. So a divisor has a positive CoB: then its zeros have the original's
sign. For a product, `System.require_positive` requires it of each factor. A parameter may have any CoB: its zeros are
scaled themselves, -2 * +0 is -0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from fxteleport.passes.domain.cob_map import ANY, IDENTITY, CobMap, Factor, structural_zeros, support
from fxteleport.passes.domain.size import Size
from fxteleport.passes.rules import folds, forms, shape_functions
from fxteleport.passes.rules.axes import BY_DIM, FROM_THE_RIGHT
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.equivariant import axes_of, dropped
from fxteleport.passes.rules.joining import merged
from fxteleport.passes.rules.operand import Operand, Unknown
from fxteleport.passes.rules.registry import named, rule

CONTRACTED = "this axis is contracted"
_LONGEST = 4  # factors of a map before they are given one name


def product(call: Call, cob: CobMap) -> CobMap:
    """Keep a monomial short: past a few factors, those along the same axes get one name, a symbol a position."""
    if len(cob.factors) <= _LONGEST:
        return cob
    if cob.zeros and any(bool((s == ANY).all()) for s, _ in cob.factors):
        return structural_zeros(call.value.ndim)
    groups = [cob]
    if not cob.zeros:  # where the factors vary along several axes, a name for all would have a symbol for each pair
        by_axes: dict[frozenset[int], list[Factor]] = {}
        for factor in cob.factors:
            by_axes.setdefault(support(factor[0]), []).append(factor)
        groups = [CobMap(tuple(factors)) for factors in by_axes.values()]
    return CobMap(tuple(factor for group in groups for factor in _named(call, group).factors), cob.zeros)


def _named(call: Call, cob: CobMap) -> CobMap:
    if len(cob.factors) < 2:
        return cob
    return call.named(cob, "it is the product of its factors")


def cob_of(x: Any, rank: int) -> CobMap:
    """The map of a factor: a number is a constant."""
    return x.map.aligned(rank) if isinstance(x, Operand) else IDENTITY


@rule(*named("mul"), shape=shape_functions.broadcast, along=folds.elementwise, form=forms.product, axes=FROM_THE_RIGHT)
def mul(call: Call, input: Any, other: Any) -> CobMap:
    rank = call.value.ndim
    return product(call, cob_of(input, rank) * cob_of(other, rank))


@rule(
    *named("div truediv"),
    shape=shape_functions.broadcast,
    along=folds.elementwise,
    form=forms.quotient,
    axes=FROM_THE_RIGHT,
)
def div(call: Call, input: Any, other: Any, rounding_mode: str | None = None) -> CobMap:
    if rounding_mode is not None:
        call.decline("the quotient is rounded")
    rank = call.value.ndim
    if call.node.target in ("__rtruediv__", "__rdiv__"):
        input, other = other, input
    zero_sign(call, other)
    return product(call, cob_of(input, rank) / cob_of(other, rank).settled())


def zero_sign(call: Call, divisor: Any) -> None:
    """Require that the zeros of a divisor keep their sign."""
    if isinstance(divisor, Operand) and divisor.name is None:
        call.positive(divisor.map, "1 / 0 has the sign of the zero, and a sum that cancels is +0 under any CoB")


@rule(*named("var"), shape=shape_functions.reduced, form=forms.variance, axes=BY_DIM)
def variance(call: Call, input: Operand, dim: Any = None, *rest: Any, **settings: Any) -> CobMap:
    axes = axes_of(dim, input.rank)
    cob = call.constant(input.map, axes, "these positions are measured together")
    return dropped(cob, axes, call.value.ndim == input.rank) ** 2


@rule(*named("var_mean std_mean"), form=forms.spread)
def spread_and_mean(call: Call, input: Operand, dim: Any = None, *rest: Any, **settings: Any) -> list[CobMap]:
    """The variance (or, where no CoB is negative, the standard deviation), and the mean."""
    axes = axes_of(dim, input.rank)
    cob = call.constant(input.map, axes, "these positions are measured together")
    mean = dropped(cob, axes, call.value[0].ndim == input.rank)
    if call.node.target is torch.var_mean:
        return [mean**2, mean]
    call.positive(cob, "a standard deviation is positive")
    return [mean, mean]


@rule(*named("outer"))
def outer(call: Call, input: Operand, vec2: Operand) -> CobMap:
    """[n] x [m] -> [n, m]."""
    return product(call, input.map.each(lambda s: s[:, None]) * vec2.map.each(lambda s: s[None]))


@rule(torch.cross, "cross", torch.linalg.cross)
def crossed(call: Call, input: Operand, other: Operand, dim: int | None = None) -> CobMap:
    """Along the axis of three coordinates: the last for `linalg.cross`, the first of the input's for `cross`."""
    why = "these coordinates are multiplied and subtracted"
    if dim is None and call.node.target is not torch.linalg.cross:
        first = list(input.shape).index(3)
        if type(input.sizes[first]) is Size:
            call.decline("which axis has three coordinates is not known before the run")
        axes = [i for i in range(first + 1) if i == first or type(input.sizes[i]) is Size]  # may have three of them
    else:
        axes = axes_of(-1 if dim is None else dim, input.rank)
    return product(call, call.constant(input.map, axes, why) * call.constant(other.map, axes, why))


@rule(*named("prod"), shape=shape_functions.reduced, axes=BY_DIM)
def multiplied(call: Call, input: Operand, dim: Any = None, keepdim: bool = False, **settings: Any) -> CobMap:
    """The CoB to the power of the number of factors; declined for many, so that no CoB overflows."""
    axes = axes_of(dim, input.rank)
    if any(type(input.sizes[axis]) is Size for axis in axes):
        call.decline("how many are multiplied is not known before the run")
    number = math.prod(input.shape[axis] for axis in axes)
    if number > _LONGEST:
        call.decline("it is a product of many")
    cob = call.constant(input.map, axes, "these positions are multiplied")
    return dropped(cob, axes, keepdim) ** number


@rule(*named("addcmul"), shape=shape_functions.broadcast, axes=FROM_THE_RIGHT)
def addcmul(call: Call, input: Operand, tensor1: Operand, tensor2: Operand, value: Any = 1) -> CobMap:
    rank = call.value.ndim
    added = product(call, tensor1.map.aligned(rank) * tensor2.map.aligned(rank))
    return merged(call, input.map.aligned(rank), added, "they are added")


@rule(*named("addmm baddbmm addbmm"), torch.sparse.addmm)
def addmm(call: Call, input: Operand, mat1: Operand, mat2: Operand, *rest: Any, **settings: Any) -> CobMap:
    rank = call.value.ndim
    added = matmul(call, mat1, mat2)
    if mat1.rank > rank:  # addbmm sums over the batch
        added = call.constant(added, [0], CONTRACTED).each(lambda s: s.squeeze(0))
    return merged(call, input.map.aligned(rank), added, "they are added")


@rule(*named("reciprocal"), shape=shape_functions.same, form=forms.reciprocal, axes=FROM_THE_RIGHT)
def reciprocal(call: Call, input: Operand) -> CobMap:
    zero_sign(call, input)
    return input.map.settled() ** -1


@rule(*named("square"), shape=shape_functions.same, form=forms.square, axes=FROM_THE_RIGHT)
def square(call: Call, input: Operand) -> CobMap:
    return input.map**2


_EXACT = frozenset({-2, -1, 0, 1, 2, 3})  # exponents that ATen multiplies out (native/cpu/PowKernel.cpp, cuda too)


@rule(*named("pow"), shape=shape_functions.broadcast, form=forms.power, axes=FROM_THE_RIGHT)
def power(call: Call, input: Any, exponent: Any) -> CobMap:
    from fxteleport.passes.rules.pointwise import teleported

    if isinstance(exponent, Operand) or call.node.target == "__rpow__":
        call.decline("an exponent has no CoB")
    if isinstance(exponent, Unknown):
        call.decline("its exponent is not known before the run")
    if call.value.is_complex() and exponent != 2:
        call.decline("a complex power goes by way of logarithms")
    if exponent < 0 and exponent != -2:  # -2 squares first, and the square of -0 is +0
        zero_sign(call, input)
    if exponent in _EXACT:
        return product(call, (input.map if exponent > 0 else input.map.settled()) ** int(exponent))
    return teleported(call, input)


def contracted(call: Call, cobs: Sequence[CobMap], axes: Sequence[int]) -> CobMap:
    """The map of a sum of products over axes: their product, required constant along them; the axes are gone."""
    total = IDENTITY
    for cob in cobs:
        total = total * cob.settled()  # with zeros there would be an equation a term, not an axis
    total = call.constant(total, axes, CONTRACTED)
    return total.each(lambda s: s.squeeze(tuple(axes)) if axes else s)


@rule(
    *named("matmul bmm mm mv dot vdot smm"),
    torch.linalg.matmul,
    torch.sparse.mm,
    "__matmul__",
    "__rmatmul__",
    shape=shape_functions.matmul,
    along=folds.batched,
)
def matmul(call: Call, input: Operand, mat2: Operand, reduce: Any = "sum") -> CobMap:
    """[..., n, k] x [..., k, m] -> [..., n, m]."""
    if reduce not in ("sum", "mean"):
        call.decline("it takes the largest or smallest product")
    if call.node.target == "__rmatmul__":
        input, mat2 = mat2, input
    vector_a, vector_b = input.rank == 1, mat2.rank == 1
    rank = max(input.rank, mat2.rank, 2)
    a = input.map.aligned(rank)
    b = mat2.map.each(lambda s: s[:, None] if vector_b else s).aligned(rank)
    a = a.each(lambda s: s.unsqueeze(-1))  # [..., n, k, 1]
    b = b.each(lambda s: s.unsqueeze(-3))  # [..., 1, k, m]
    cob = contracted(call, [a, b], [rank - 1])
    gone = [axis for axis, vector in ((-1, vector_b), (-2, vector_a)) if vector]
    return product(call, cob.each(lambda s: s.squeeze(tuple(gone)) if gone else s))


@rule(*named("tensordot"))
def tensordot(call: Call, a: Operand, b: Operand, dims: Any = 2, **settings: Any) -> CobMap:
    """Over the last axes of `a` and the first of `b`, or over those that `dims` names of each."""
    if not isinstance(dims, (int, list, tuple)):
        call.decline("which axes it contracts is not known before the run")
    given = (range(a.rank - dims, a.rank), range(dims)) if isinstance(dims, int) else dims
    over_a, over_b = ([axis % x.rank for axis in axes] for axes, x in zip(given, (a, b), strict=True))
    kept_a, kept_b = ([i for i in range(x.rank) if i not in over] for over, x in ((over_a, a), (over_b, b)))
    rank, new = call.value.ndim, (None,) * len(kept_b)
    cobs = [  # [kept of a, kept of b, contracted]
        a.map.each(lambda s: s.permute([*kept_a, *over_a])[(slice(None),) * len(kept_a) + new]),
        b.map.each(lambda s: s.permute([*kept_b, *over_b])).aligned(rank + len(over_b)),
    ]
    return product(call, contracted(call, cobs, range(rank, rank + len(over_b))))


@rule(*named("inner"))
def inner(call: Call, input: Operand, other: Operand) -> CobMap:
    """Over the last axis of both; with a number it is a product."""
    if not (input.rank and other.rank):
        return mul(call, input, other)  # type: ignore[no-any-return]
    return tensordot(call, input, other, ([-1], [-1]))  # type: ignore[no-any-return]


@rule(torch.linalg.solve_triangular, torch.linalg.solve)
def solved(call: Call, input: Operand, other: Operand, left: bool = True, **settings: Any) -> CobMap:
    """The X of A X = B, or of X A = B: a product of B with a fixed matrix.

    As torch has it, B is vectors if it has one axis, or the sizes of A without its last; else matrices.
    """
    call.pin(input.map, "it is solved with, not multiplied by")
    batches, rank = input.sizes[:-1], other.rank
    vectors = rank == 1 or tuple(other.sizes) == tuple(batches)
    axes = [rank - 1 if vectors or not left else rank - 2]
    if not vectors and rank == len(batches) and any(type(n) is Size for n in (*other.sizes, *batches)):
        axes = [rank - 2, rank - 1]  # for other sizes it may be vectors
    return call.constant(other.map, axes, CONTRACTED).aligned(call.value.ndim)


@rule(*named("einsum"), shape=shape_functions.einsum)
def einsum(call: Call, equation: str, *operands: Any) -> CobMap:
    tensors: Sequence[Operand] = operands[0] if len(operands) == 1 and isinstance(operands[0], list) else operands
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:  # the indices that occur once, in alphabetical order, behind what the ellipsis stands for
        once = [c for c in sorted(set(left) - set(",.")) if left.count(c) == 1]
        right = "".join(["..." if "..." in left else "", *once])
    if any(len(set(t)) != len(t) for t in (term.replace("...", "") for term in terms)):
        call.decline("this einsum repeats an index in one operand")
    # An ellipsis stands for leading axes: give each of them a letter of its own.
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    width = max(t.rank - len(term.replace("...", "")) for t, term in zip(tensors, terms, strict=True))
    dots = "".join(spare[:width])
    spelled = []
    for tensor, term in zip(tensors, terms, strict=True):
        here = tensor.rank - len(term.replace("...", ""))
        spelled.append(term.replace("...", dots[width - here :]))
    right = right.replace("...", dots)
    order = right + "".join(dict.fromkeys(c for term in spelled for c in term if c not in right))
    cobs = []
    for tensor, term in zip(tensors, spelled, strict=True):
        axes = [term.index(c) for c in order if c in term]
        shape = [i for i, c in enumerate(order) if c not in term]

        def place(s: torch.Tensor, axes: list[int] = axes, shape: list[int] = shape) -> torch.Tensor:
            s = s.permute(axes)
            for i in shape:
                s = s.unsqueeze(i)
            return s

        cobs.append(tensor.map.each(place))
    return product(call, contracted(call, cobs, range(len(right), len(order))))


@rule(
    torch.nn.functional.scaled_dot_product_attention,
    shape=shape_functions.attention,
    along=folds.batched,
    axes=FROM_THE_RIGHT,
)
def attention(
    call: Call, query: Operand, key: Operand, value: Operand, attn_mask: Operand | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> CobMap:  # fmt: skip
    """softmax(q k^T) v: the logits are pinned, so q * k = 1; v is constant over the keys.

    With `enable_gqa` each head of keys and values serves a group of query heads that follow each other.
    """
    if attn_mask is not None:
        call.pin(attn_mask.map, "it is added to the attention logits")

    def served(operand: Operand) -> CobMap:
        cob = operand.map.settled()
        if not enable_gqa:
            return cob
        group = query.shape[-3] // operand.shape[-3]
        return cob.each(lambda s: s.repeat_interleave(group, -3) if s.size(-3) > 1 else s)

    q = query.map.settled().each(lambda s: s.unsqueeze(-2))  # [..., l, 1, e]
    k = served(key).each(lambda s: s.unsqueeze(-3))  # [..., 1, s, e]
    call.same(q * k, IDENTITY, "softmax pins the logits q k")
    cob = call.constant(served(value), [value.rank - 2], CONTRACTED)
    return cob.aligned(call.value.ndim)
