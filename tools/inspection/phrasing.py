"""Groups, their uses and wrapped operations in words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fxteleport.explain.groups import Group
from fxteleport.explain.joins import Tie
from fxteleport.explain.scalings import Use
from fxteleport.passes.rules.call import Wrap

_ALLOWED = {"any": "", "positive": ", positive", "sign": ", 1 or -1", "mixed": ", some without a sign"}
_LAWS = {
    "any": "any number but 0",
    "positive": "positive",
    "sign": "1 or -1",
    "mixed": "any number but 0, positive or 1 or -1 (it differs)",
}
_SHOWN = 3


def size_words(group: Group) -> str:
    """`64 free`, `64 free, positive`, `64 dependent`, `64 pinned`."""
    return f"{group.size:,} {group.kind}{_ALLOWED[group.allows] if group.kind == 'free' else ''}"


def allowed_words(group: Group) -> str:
    """The allowed values of a free group, in words."""
    return _LAWS[group.allows]


def short_reason(why: str) -> str:
    """A group's reason without the node before it and the advice in brackets after it."""
    head, colon, rest = why.partition(": ")
    return re.sub(r" \([^()]*\)$", "", rest if colon and " " not in head else why)


def full_words(group: Group) -> str:
    """`64 free`, `64 = #3 * #5`, `64 pinned: it is an output of the network`."""
    if group.kind == "dependent":
        return f"{group.size:,} {'= ' if group.why.startswith(('#', '1 /')) else 'dependent: '}{group.why}"
    return f"{size_words(group)}: {short_reason(group.why)}" if group.kind == "pinned" else size_words(group)


def axis_words(axes: Sequence[int]) -> str:
    """`axis 0`, `axes 1, 3`, `all of it`."""
    if not axes:
        return "all of it"
    return f"ax{'i' if len(axes) == 1 else 'e'}s {', '.join(map(str, axes))}"


def scaling_words(uses: Sequence[Use], groups: Sequence[Group], shown: int = _SHOWN) -> str:
    """How a tensor is scaled: `* #9 on axis 0, / #11 on axis 1`; channels where there are several runs on an axis.

    Pinned groups are left out.
    """
    axes: dict[tuple[int, ...], dict[tuple[int, int], list[str]]] = {}
    for use in uses:
        if groups[use.group].kind != "pinned":
            power = f"^{abs(use.exponent)}" if abs(use.exponent) > 1 else ""
            runs = axes.setdefault(use.axes, {})
            runs.setdefault((use.start, use.stop), []).append(f"{'*' if use.exponent > 0 else '/'} #{use.group}{power}")
    said = []
    for where, runs in axes.items():
        terms = [
            " ".join(factors) + (f"[{start}:{stop}]" if len(runs) > 1 else "")
            for (start, stop), factors in runs.items()
        ]
        said.append(f"{listed(terms, shown)} on {axis_words(where)}")
    return ", ".join(said) or "not scaled"


def tied_words(tie: Tie) -> str:
    """`#2, #0, #1`: the groups of a tie."""
    return listed([f"#{g}" for g in tie.groups], 4)


def by_run(uses: Sequence[Use]) -> list[list[Use]]:
    """Uses grouped by their runs of channels; the uses of one run are multiplied."""
    runs: dict[tuple[tuple[int, ...], int, int], list[Use]] = {}
    for use in uses:
        runs.setdefault((use.axes, use.start, use.stop), []).append(use)
    return list(runs.values())


def listed(words: Sequence[str], shown: int = _SHOWN) -> str:
    """`a, b, c and 9 more`."""
    unique = list(dict.fromkeys(words))
    more = len(unique) - shown
    return ", ".join(unique[:shown]) + (f" and {more} more" if more > 0 else "")


def wrap_words(wrap: Wrap, before: Sequence[Use], after: Sequence[Use], groups: Sequence[Group]) -> str:
    """How an operation is wrapped; "" where its CoB is structurally 1 (all of its groups are pinned)."""
    reads = listed([f"#{u.group}" for u in before if groups[u.group].kind != "pinned"])
    gives = listed([f"#{u.group}" for u in after if groups[u.group].kind != "pinned"])
    if wrap.part == "sign":
        return f"wrapped where {reads or gives} is negative: s f(s x), s the sign" if reads or gives else ""
    part = {"magnitude": "the magnitude of "}.get(wrap.part, "")
    if reads and gives and wrap.before is wrap.after:
        return f"wrapped as t f(x / t), t = {part}{reads}"
    said = [f"input divided by {part}{reads}"] if reads else []
    said += [f"output multiplied by {part}{gives}"] if gives else []
    return f"wrapped: {', '.join(said)}" if said else ""
