"""Conditions: what a capture, or a rule, assumes beyond the model itself.

An emitted network has a guard for each condition that a run can check. Weights that go back into the original class
have no guards: they keep the function wherever the conditions hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KINDS = {
    "branch": "Python took a branch on a size",
    "number": "a size, or a number made from sizes, was taken for what it was",
    "form": "the structure, rank, type or plain value of an input, or that it was not given",
    "mode": "eval mode was traced, or is needed",
    "norm": "a norm's epsilon stays where its input is scaled: the result is approximate",
    "data": "what the example's values decided, such as the length of a list or a random number",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that a plan rests on.

    Attributes:
        kind: one of `KINDS`.
        node: name of the graph's node that was asked, or "".
        path: module whose `forward` asked, "" for the model itself.
        source: the line of the model's code, as `file:line: text`, or "".
        value: what was specialised, in words.
    """

    kind: str
    node: str
    path: str
    source: str
    value: str

    def __str__(self) -> str:
        return f"{self.path or 'the model'}: {self.value}"


def in_short(conditions: Sequence[Condition], most: int = 5) -> str:
    """Conditions in one sentence: the first few, and how many more there are."""
    said = "; ".join(f"{c} ({c.source})" if c.source else str(c) for c in conditions[:most])
    more = len(conditions) - most
    return f"{said}; and {more} more" if more > 0 else said
