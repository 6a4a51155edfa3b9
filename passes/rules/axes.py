"""How an operation counts the axes of its tensors: whether it does the same where there are more of them in front."""

from __future__ import annotations

import enum


class Axes(enum.Enum):
    """What a call names its axes by.

    Attributes:
        NUMBERED: their numbers from the left, or it is not known: another rank gives it another meaning.
        FROM_THE_RIGHT: it goes element by element, over the last axes, or pins everything.
        BY_DIM: its argument `dim`, and so from the right where that is negative.
    """

    NUMBERED = enum.auto()
    FROM_THE_RIGHT = enum.auto()
    BY_DIM = enum.auto()


FROM_THE_RIGHT, BY_DIM = Axes.FROM_THE_RIGHT, Axes.BY_DIM
