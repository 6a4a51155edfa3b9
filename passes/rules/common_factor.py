"""Common factors: how a norm takes one positive factor c of its whole input, with nothing divided away before it.

A norm forgets c, but for the small number that keeps its divisor from 0: added to a variance, that must be c^2 times as
large, and added to a deviation c times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Epsilon:
    """A number in a norm that is c ** power times as large if the norm's input is c times as large.

    Attributes:
        node: the name of the call that it is given to: the norm, or an operation in a norm that is written by hand.
        argument: its place there: the attribute of a module, an index among the positional arguments, or a name.
        power: of c.
        default: what it is where the call does not give it.
    """

    node: str
    argument: int | str
    power: int
    default: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CommonFactor:
    """What a factor c of a norm's input changes in the norm.

    Attributes:
        epsilons: its numbers.
        degrees: of a norm that is written by hand, the nodes in it, by name: each part of what they give is c ** degree
            times as large.
        casts: it goes through another number format. Then c must be a power of two: another one is rounded in each.
    """

    epsilons: tuple[Epsilon, ...]
    degrees: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    casts: bool = False
