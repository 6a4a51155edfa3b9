"""Records: data classes that are frozen to a type checker, and cost a quarter of frozen ones to make.

A plan makes a dozen small objects for each node of a graph. Python sets the fields of a frozen data class one by one
past its own guard, which takes longer than what most of the passes do with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from typing_extensions import dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(*, eq: bool = True) -> Callable[[type[T]], type[T]]:
    """Make a record of a class: `dataclass(frozen=True, slots=True)`, but that only mypy minds an assignment.

    Args:
        eq: records with equal fields are equal; else each is equal to itself alone.
    """
    return dataclass(slots=True, eq=eq, unsafe_hash=eq)
