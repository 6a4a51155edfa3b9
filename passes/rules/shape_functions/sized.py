"""Shape functions: the axes of a result as sizes, for families of operations.

A shape function is called as the rule of its operation is (`registry.py`), with an `At` in place of the call and
a `Sized` for each tensor. It gives the sizes of the result, a list of them for several results, or None where it does
not know them: then the operation is run on other sizes (`sizing.probed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fxteleport.passes.domain.size import Extent, Size, Sizes
from fxteleport.passes.graph.ops import name_of
from fxteleport.passes.record import record

Shape = Sequence[Extent]


@record()
class Sized:
    """A tensor with its axes as sizes.

    `uncertain` is true where its values are known for the example alone: they depend on the inputs' sizes.
    """

    value: Tensor
    sizes: tuple[Extent, ...]
    uncertain: bool = False


class Repeated(list[Any]):
    """The items of a list whose length other inputs change: `[x] * n`."""


@record()
class At:
    """The node whose shape is asked for: its target (or module), its value in the example, the sizes made so far."""

    target: Any
    value: Any
    sizes: Sizes

    @property
    def name(self) -> str:
        """The name that all spellings of the operation share."""
        return name_of(self.target)

    def axis(self, n: int, key: Any) -> Extent:
        """An axis of the result that is a function of others: known where they are."""
        return self.sizes.named((self.target, key), n) if _unknown(key) else n


def _unknown(x: Any) -> bool:
    return type(x) is Size or (type(x) is tuple and any(map(_unknown, x)))
