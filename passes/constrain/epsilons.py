"""The epsilons of a norm that is written by hand: the numbers in it that must change with a common factor of its input.

Every node of such a norm is homogeneous, f(c x) = c^d f(x), if each epsilon (a small number that is added to it, or
that it is clamped to) is multiplied by c^d, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.ops import leaves_of, name_of
from fxteleport.passes.rules.common_factor import CommonFactor, Epsilon


def common_factor(
    entry: fx.Node, inside: Sequence[fx.Node], forms: Mapping[fx.Node, Any], numbers: Sequence[fx.Node]
) -> CommonFactor | None:
    """What a factor of a norm's input changes in the norm; None where it is not known.

    Args:
        entry, inside: the node before the norm, and those in it.
        forms: how these depend on the entry.
        numbers: those of them that add or clamp.
    """
    degrees = _whole_degrees(inside, forms)
    epsilons = None if degrees is None else _epsilons(numbers, {**degrees, entry: (1,)})
    if degrees is None or epsilons is None:
        return None
    return CommonFactor(epsilons, {node.name: d for node, d in degrees.items()}, any(map(_is_cast, inside)))


def _whole_degrees(inside: Sequence[fx.Node], forms: Mapping[fx.Node, Any]) -> dict[fx.Node, tuple[int, ...]] | None:
    """The degrees of homogeneity of a norm's nodes, one for each result of a node.

    None where a degree is no whole number, where an operation rounds differently under powers of two (another root than
    the square root), and in float16, whose range a factor's powers would leave.
    """
    degrees = {}
    for node in inside:
        held = forms[node]
        parts = held if isinstance(held, tuple) else (held,)
        if any(part.degree is None or part.degree.denominator != 1 for part in parts) or not _is_exact(node):
            return None
        if any(x.dtype is torch.float16 for x in leaves_of(info(node).value) if isinstance(x, Tensor)):
            return None
        degrees[node] = tuple(int(part.degree) for part in parts)
    return degrees


def _is_exact(node: fx.Node) -> bool:
    """False for a power or a norm that torch computes by another function than products and square roots."""
    name = name_of(node.target).strip("_")
    if name in ("pow", "ipow", "float_power"):
        return (node.args[1] if len(node.args) > 1 else node.kwargs.get("exponent")) in _POWERS
    if name in ("norm", "vector_norm"):
        return node.kwargs.get("ord", node.kwargs.get("p", node.args[1] if len(node.args) > 1 else None)) in _ORDERS
    return True


_POWERS = (0.5, -0.5, 1, 2, 3, -1, -2)
_ORDERS = (None, 1, 2, math.inf, -math.inf, "fro")


def _is_cast(node: fx.Node) -> bool:
    """True for what may change the number format."""
    return name_of(node.target) in ("to", "type", "float", "double", "bfloat16")


def _epsilons(numbers: Sequence[fx.Node], degrees: Mapping[fx.Node, tuple[int, ...]]) -> tuple[Epsilon, ...] | None:
    """The numbers in calls that add or clamp; None where one is no plain number, or belongs to a module."""
    epsilons = []
    for node in numbers:
        given: dict[Any, Any] = {**dict(enumerate(node.args)), **node.kwargs}
        sources = [x for x in given.values() if isinstance(x, fx.Node)]
        if node.op == "call_module" or any(x not in degrees for x in sources):
            return None
        power = degrees[sources[0]][0]
        for argument, x in given.items():
            if isinstance(x, (int, float)) and argument != "alpha" and x != 0 and power:
                epsilons.append(Epsilon(node.name, argument, power))
    return tuple(epsilons)
