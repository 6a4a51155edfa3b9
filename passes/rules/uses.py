"""Which operands of a call its rule has taken into account: what soundness rests on where a call has many forms.

A rule is written for the forms of a call that its author knew. In another form a tensor may come in where the author
expected a number, and a rule that does not look at it would let its CoB get lost. So each operand that may carry a CoB
must be used, or the call is unknown (`Rule.apply`).
"""

from __future__ import annotations


class Uses:
    """The operands of one call that are used; see `Operand.use` for what counts."""

    __slots__ = ("_ids",)

    def __init__(self) -> None:
        self._ids: set[int] = set()

    def note(self, operand: object) -> None:
        """An operand is used."""
        self._ids.add(id(operand))

    def __contains__(self, operand: object) -> bool:
        return id(operand) in self._ids
