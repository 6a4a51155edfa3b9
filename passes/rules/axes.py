"""How an operation counts the axes of its tensors: whether it does the same with more leading axes."""

from __future__ import annotations

import enum


class Axes(enum.Enum):
    """How a call names its axes.

    Attributes:
        NUMBERED: from the left, or unknown: with another rank the call means other axes.
        FROM_THE_RIGHT: it works element by element or over the last axes, or it pins everything.
        BY_DIM: by its argument `dim`: from the right where that is negative.
    """

    NUMBERED = enum.auto()
    FROM_THE_RIGHT = enum.auto()
    BY_DIM = enum.auto()


FROM_THE_RIGHT, BY_DIM = Axes.FROM_THE_RIGHT, Axes.BY_DIM
