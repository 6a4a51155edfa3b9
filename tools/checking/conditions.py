"""The conditions of a teleportation, as rows of a summary."""

from __future__ import annotations

from collections.abc import Sequence

from fxteleport.passes.graph.conditions import Condition
from fxteleport.tools.console import count

_SHOWN = 5


def resting(conditions: Sequence[Condition]) -> list[tuple[str, str]]:
    """The rows: the number of conditions, and the first ones."""
    if not conditions:
        return [("rests on", "nothing: the same function on every input that the original takes")]
    rows = [("rests on", f"{count(len(conditions), 'condition')} (--strict refuses any)")]
    rows += [("", described(c)) for c in conditions[:_SHOWN]]
    more = len(conditions) - _SHOWN
    return rows + ([("", f"and {more} more (see --json)")] if more > 0 else [])


def described(condition: Condition) -> str:
    """A condition, with its line of code."""
    where = f" ({condition.source})" if condition.source else ""
    return f"{condition.kind}: {condition}{where}"
