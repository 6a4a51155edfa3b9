"""Products of tensors: matmul, attention, einsum."""

from __future__ import annotations

import itertools
from typing import Any

from fxteleport.passes.domain.size import Extent
from fxteleport.passes.rules.shape_functions.elementwise import joint
from fxteleport.passes.rules.shape_functions.sized import At, Shape, Sized


def matmul(at: At, input: Sized, mat2: Sized, *rest: Any, **settings: Any) -> Shape | None:
    """[..., n, k] x [..., k, m] -> [..., n, m]."""
    a, b = (mat2.sizes, input.sizes) if at.target == "__rmatmul__" else (input.sizes, mat2.sizes)
    if len(a) < 2 or len(b) < 2:
        return None
    at.sizes.insist(a[-1], b[-2])
    columns = itertools.zip_longest(reversed(a[:-2]), reversed(b[:-2]), fillvalue=1)
    return *[joint(at, column) for column in columns][::-1], a[-2], b[-1]


def attention(at: At, query: Sized, key: Sized, value: Sized, *rest: Any, **settings: Any) -> Shape:
    """Queries [..., l, e] over values [..., s, v] -> [..., l, v]."""
    at.sizes.insist(query.sizes[-1], key.sizes[-1])
    return *query.sizes[:-1], value.sizes[-1]


def einsum(at: At, equation: Any, *tensors: Any) -> Shape | None:
    """A size for each letter of the equation."""
    if not isinstance(equation, str) or "->" not in equation or "..." in equation:
        return None
    left, _, right = equation.replace(" ", "").partition("->")
    letters: dict[str, Extent] = {}
    for term, tensor in zip(left.split(","), tensors, strict=True):
        for letter, n in zip(term, tensor.sizes, strict=True):
            if type(letters.setdefault(letter, n)) is not int or letters[letter] == 1:
                at.sizes.insist(letters[letter], n) if n != 1 and letters[letter] != 1 else None
                letters[letter] = n if (type(n) is int and n != 1) or letters[letter] == 1 else letters[letter]
    return [letters[letter] for letter in right]
