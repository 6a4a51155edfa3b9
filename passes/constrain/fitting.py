"""Fitting: checks that the maps that a rule returns fit its results, at every size that these may have."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from fxteleport.passes.constrain.sizing import Sizing
from fxteleport.passes.domain.cob_map import CobMap, Parts
from fxteleport.passes.domain.constraints import Origin, System
from fxteleport.passes.domain.size import Size, Sizes, product
from fxteleport.passes.errors import Decline
from fxteleport.passes.rules import folds as folded
from fxteleport.passes.rules.call import fits
from fxteleport.passes.rules.operand import carries
from fxteleport.passes.rules.operands import map_like, pairs_of
from fxteleport.passes.rules.shape_functions import Sized


def fitted(value: Any, result: Any) -> Any:
    """Check that maps fit a value, and return them.

    Raises:
        Decline: they do not.
    """
    if isinstance(result, CobMap) and not isinstance(value, Tensor):  # one map for several tensors
        if result.factors:
            raise Decline("its rule does not know this form of the call")
        return map_like(value)
    for part, cob in pairs_of(value, result):
        if cob.factors and not carries(part):
            raise Decline("its result is of a type without fractions")
        if cob.factors and not fits(cob, part.shape):
            raise Decline("its rule does not know this form of the call")
    return result


def has_more(value: Any, sized: Any) -> bool:
    """True for an empty result (or one of several) along an axis that other inputs may make longer."""
    if isinstance(value, Tensor):
        if value.numel():
            return False
        sizes = sized.sizes if type(sized) is Sized else ()
        return any(n == 0 and type(m) is Size for n, m in zip(value.shape, sizes, strict=False))
    pairs = zip(value, sized, strict=False) if isinstance(value, (tuple, list)) and isinstance(sized, list) else ()
    return any(has_more(*pair) for pair in pairs)


def at_all_sizes(
    system: System, sizing: Sizing, node: fx.Node, result: Any, told: bool, folds: Mapping[int, Parts]
) -> Any:
    """Require that maps do not vary along axes of unknown size, but for folds: a map has the example's positions.

    An operation without a shape function moves nothing: if its map varies along an axis, an input's map (or a weight)
    varies along a known one, so the axis is known. This does not hold for structural zeros, which vary along any axis.

    Args:
        told: the operation has a shape function.
        folds: those that it leaves as they are.
    """
    return _unvarying_in(system, sizing.sizes, node, told, folds, result, sizing.current(node))


def _unvarying_in(
    system: System, sizes: Sizes, node: fx.Node, told: bool, folds: Mapping[int, Parts], result: Any, sized: Any
) -> Any:
    """`at_all_sizes` of a map, or of a structure of maps with the same structure of sizes."""
    if isinstance(result, CobMap):
        if not result.factors or type(sized) is not Sized:
            return result
        unknown = [i for i, n in enumerate(sized.sizes) if type(n) is Size and result.varies(i)]
        if not told and not result.zeros:
            for i in unknown:
                sizes.insist(sized.sizes[i], sized.value.shape[i])
            return result
        if unknown or result.folds:
            origin = Origin(node.name, "other inputs have more or fewer of these positions")
            return _unvarying(system, sizes, origin, result, sized, unknown, dict(result.folds) or folds)
        return result
    inner = functools.partial(_unvarying_in, system, sizes, node, told, folds)
    if isinstance(result, dict) and isinstance(sized, dict):
        return {k: inner(cob, sized.get(k)) for k, cob in result.items()}
    if isinstance(result, (list, tuple)) and isinstance(sized, list):
        return [inner(cob, part) for cob, part in zip(result, sized, strict=False)]
    return result


def _unvarying(
    system: System,
    sizes: Sizes,
    origin: Origin,
    cob: CobMap,
    sized: Sized,
    unknown: Sequence[int],
    folds: Mapping[int, Parts],
) -> CobMap:
    """A map with one CoB along axes of unknown sizes, or along the unknown parts of their folds."""
    extents = {i: sizes.settled(sized.sizes[i]) for i in unknown}
    axes = [i for i, n in extents.items() if type(n) is Size]
    held = {i: folds[i] for i in axes if i in folds and sizes.settled(product(folds[i])) == extents[i]}
    cob = system.constant(cob, [i for i in axes if i not in held], origin)
    for i, parts in held.items():
        shape = tuple(sized.value.shape)
        cob = folded.kept(system, cob, shape, i, parts, [sizes.value(n) for n in parts], origin)
    return CobMap(cob.factors, cob.zeros, tuple((i, parts) for i, parts in held.items() if cob.varies(i)))
