"""Which operands of a call its rule has used: soundness rests on this where an operation can be called in many ways.

A rule is written for the calls that its author knew. In another call a tensor may stand where the author expected a
number, and a rule that ignores it would lose its CoB. So each operand that may carry a CoB must be used, or the call is
declined (`Rule.apply`).
"""

from __future__ import annotations


class Uses:
    """The operands of one call that are used; see `Operand.use` for what counts."""

    __slots__ = ("_ids",)

    def __init__(self) -> None:
        self._ids: set[int] = set()

    def note(self, operand: object) -> None:
        """Note that an operand is used."""
        self._ids.add(id(operand))

    def __contains__(self, operand: object) -> bool:
        return id(operand) in self._ids
