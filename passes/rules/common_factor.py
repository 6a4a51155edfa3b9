"""Common factors: how a norm takes an input that is c times as large, with one positive c, and no division before it.

A norm's result does not depend on c but for its epsilon: added to a variance, that must be c^2 times as large, and
added to a deviation c times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Epsilon:
    """A number in a norm that is c ** power times as large if the norm's input is c times as large.

    Attributes:
        node: the name of the call that takes it: the norm, or an operation in a norm that is written by hand.
        argument: which of its arguments: the attribute of a module, a positional index, or a name.
        power: of c.
        default: its value where the call does not give it.
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
        casts: values go through another number format. Then c must be a power of two: any other is rounded differently.
    """

    epsilons: tuple[Epsilon, ...]
    degrees: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    casts: bool = False
